/** A student's question about an image, as the request has it. */

import type { ReplyFields } from "@parley/client";
import { Refused, requiredText, textOf } from "@parley/client/fastify";

const TUTOR = "You are a patient tutor. Explain step by step what the image shows and how to solve it.";
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

export interface Question {
  readonly sessionId: string;
  readonly prompt: string;
  readonly subject: string;
  /** Undefined for a further question about the images of the session. */
  readonly image: Buffer | undefined;
}

/** Reads a body. Throws a refusal: 400 if it is wrong, 403 if it is a question of another student than `user`. */
export function questionOf(body: unknown, user: string): Question {
  const question = {
    sessionId: requiredText(body, "session_id"),
    prompt: requiredText(body, "prompt"),
    subject: textOf(body, "subject").trim(),
    image: imageOf(body),
  };
  if (requiredText(body, "student_id") !== user) throw new Refused(403, "You can ask only as yourself.");
  return question;
}

/** The conversation of a session, which is made at its first question. */
export function conversationOf({ sessionId, subject }: Question) {
  return { id: sessionId, system: systemOf(subject), labels: labelsOf(subject) };
}

/** What Parley is asked. A student who leaves does not read the answer: it is cancelled. */
export function fieldsOf({ sessionId, prompt, subject, image }: Question): ReplyFields {
  return {
    conversationId: sessionId,
    text: prompt,
    images: image && [image],
    system: systemOf(subject),
    labels: labelsOf(subject),
    onDisconnect: "cancel",
  };
}

function imageOf(body: unknown): Buffer | undefined {
  const base64 = textOf(body, "base64_image");
  if ((body as { base64_image?: unknown }).base64_image === undefined) return undefined;
  if (!BASE64.test(base64)) throw new Refused(400, "base64_image must be an image in base64.");
  return Buffer.from(base64, "base64");
}

function systemOf(subject: string): string[] {
  return subject ? [TUTOR, `The subject is ${subject}.`] : [TUTOR];
}

function labelsOf(subject: string): Record<string, string> {
  return subject ? { subject } : {};
}
