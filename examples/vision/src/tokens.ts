/** Tokens (JWT) of this product's users. */

import { Refused } from "@parley/client/fastify";
import { SignJWT, jwtVerify } from "jose";

const LIFETIME_S = 12 * 3600;
const KEY_BYTES = 32;
/** Names of users without spaces, so that they can be metadata of gRPC. */
const USER = /^[!-~]{1,128}$/;

export class Tokens {
  readonly #key: Uint8Array;

  /** Throws an error for a key that is too short for HS256. */
  constructor(key: string) {
    this.#key = new TextEncoder().encode(key);
    if (this.#key.length < KEY_BYTES) throw new Error(`CHAT_JWT_KEY must have at least ${KEY_BYTES} bytes`);
  }

  /** Returns the user of the header `Authorization`. Throws a refusal with status 401. */
  async userOf(authorization: string | undefined): Promise<string> {
    const token = /^Bearer (\S+)$/i.exec(authorization ?? "")?.[1];
    if (!token) throw new Refused(401);
    const options = { algorithms: ["HS256"], requiredClaims: ["sub", "exp"] };
    const { payload } = await jwtVerify(token, this.#key, options).catch(() => {
      throw new Refused(401, "Your session has ended. Sign in again.");
    });
    if (!USER.test(payload.sub ?? "")) throw new Refused(401);
    return payload.sub!;
  }

  /** Returns a new token for a user, with its lifetime in seconds. */
  async issue(user: string): Promise<{ token: string; expires_in: number }> {
    const token = await new SignJWT()
      .setProtectedHeader({ alg: "HS256" })
      .setSubject(user)
      .setIssuedAt()
      .setExpirationTime(`${LIFETIME_S} s`)
      .sign(this.#key);
    return { token, expires_in: LIFETIME_S };
  }
}
