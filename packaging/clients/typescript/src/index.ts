/**
 * Usage and tags of Dormouse over HTTP: who used what, to the last byte-nanosecond.
 *
 *     const dormouse = new Client("http://127.0.0.1:7474", token);
 *     for await (const item of dormouse.usageItems({ groupBy: "tag:team" })) {
 *         console.log(item.value, item.memoryByteNanoseconds);
 *     }
 *
 * Exact quantities are `bigint`. What the server refuses is a `Problem` with a `reason`. Nothing but `fetch` is needed.
 * What a question means is told in the server's specification, `/api/openapi.json`.
 */

export type {
    Amounts,
    Point,
    Sandbox,
    SandboxUsage,
    Slice,
    TagKey,
    Tags,
    Usage,
    UsageItem,
    Window,
} from "./answers.js";
export { Client } from "./client.js";
export type { ClientOptions, Page, SlicesQuery, UsageItemsQuery, UsageOfQuery, UsageQuery } from "./client.js";
export { Problem, REASONS, Unreachable } from "./problem.js";
export type { Reason } from "./problem.js";
