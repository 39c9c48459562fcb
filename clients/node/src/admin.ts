/** Calls of the Admin service. They return messages of `parley.v1` and throw a ParleyError. */

import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { CallOptions, Connection } from "./connection.js";
import {
  Admin as AdminService,
  type GetStatusResponse,
  ListProviderKeysRequestSchema,
  ListUsageRequestSchema,
  ListUsageRequest_GroupBy as GroupBy,
  type ProviderKey,
  type UsageRow,
} from "./gen/parley/v1/admin_pb.js";

const GROUPINGS = {
  day: GroupBy.DAY,
  tenant: GroupBy.TENANT,
  endUser: GroupBy.END_USER,
  model: GroupBy.MODEL,
  outcome: GroupBy.OUTCOME,
};

export interface UsageOptions extends CallOptions {
  /** Acceptance of the replies: from this time. By default from the first. */
  startTime?: Date | undefined;
  /** Until before this time. By default until now. */
  endTime?: Date | undefined;
  groupBy?: readonly (keyof typeof GROUPINGS)[] | undefined;
  tenant?: string | undefined;
  endUser?: string | undefined;
  model?: string | undefined;
  pageSize?: number | undefined;
}

/**
 * Provider keys, usage and status, for operators. The calls need a credential with the role admin, except `usage` of the
 * caller's own tenant or end user.
 */
export class Admin {
  /** @internal Use `client.admin`. */
  constructor(private readonly connection: Connection) {}

  /**
   * Stores the key of a provider, encrypted, for a tenant, or for all tenants without their own. With `verify`, the
   * server tests it with the provider first. No call returns the key: the result has its last characters.
   */
  async setProviderKey(
    provider: string,
    apiKey: string,
    {
      tenant = "",
      verify = false,
      signal,
    }: CallOptions & { tenant?: string | undefined; verify?: boolean | undefined } = {},
  ): Promise<ProviderKey> {
    const request = { provider, apiKey, tenant, verify };
    return await this.connection.unary(AdminService.method.setProviderKey, request, { signal });
  }

  /** Returns all stored keys, each with its last characters only. */
  async *providerKeys({
    pageSize = 0,
    signal,
  }: CallOptions & { pageSize?: number | undefined } = {}): AsyncGenerator<ProviderKey, void, undefined> {
    const request = create(ListProviderKeysRequestSchema, { pageSize });
    do {
      const page = await this.connection.unary(AdminService.method.listProviderKeys, request, { signal });
      yield* page.keys;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /** Deletes the key of a provider for a tenant, or without a tenant the one for all. */
  async deleteProviderKey(
    provider: string,
    { tenant = "", signal }: CallOptions & { tenant?: string | undefined } = {},
  ): Promise<void> {
    const request = { provider, tenant };
    await this.connection.unary(AdminService.method.deleteProviderKey, request, { signal });
  }

  /** Returns sums of tokens, cost and outcomes of the replies that were accepted in a time, one row for each group. */
  async *usage({ startTime, endTime, groupBy = [], signal, ...filters }: UsageOptions = {}): AsyncGenerator<
    UsageRow,
    void,
    undefined
  > {
    const request = create(ListUsageRequestSchema, {
      ...filters,
      groupBy: groupBy.map((name) => GROUPINGS[name]),
      startTime: startTime && timestampFromDate(startTime),
      endTime: endTime && timestampFromDate(endTime),
    });
    do {
      const page = await this.connection.unary(AdminService.method.listUsage, request, { signal });
      yield* page.rows;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /** Returns the state of the replica that answers, and what the database shows of all replicas. */
  async status({ signal }: CallOptions = {}): Promise<GetStatusResponse> {
    return await this.connection.unary(AdminService.method.getStatus, {}, { signal });
  }
}
