/**
 * Asks a real server everything: check.js BASE_URL READ_TOKEN WRITE_TOKEN SANDBOX OPENAPI.
 *
 * The sandbox must have ended, so that what it used stands still. Prints its usage by tag, as other clients must.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { Client, Problem, Unreachable } from "../src/index.js";
import type { Reason } from "../src/index.js";

const [baseUrl = "", readToken = "", writeToken = "", sandboxId = "", specification = ""] = process.argv.slice(2);
const reader = new Client(baseUrl, readToken);
const writer = new Client(`${baseUrl}/`, writeToken);

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
    const found: T[] = [];
    for await (const item of items) found.push(item);
    return found;
}

async function refused(reason: Reason, status: number, question: () => Promise<unknown>): Promise<void> {
    await assert.rejects(question, (error) => {
        assert.ok(error instanceof Problem);
        assert.deepEqual([error.reason, error.status], [reason, status]);
        assert.ok(error.title !== "" && error.detail !== "");
        return true;
    });
}

/** Every member of the specification that is an integer in a string comes as a bigint, and nothing else does. */
function checkSpecification(answers: readonly object[]): void {
    const document = JSON.parse(readFileSync(specification, "utf8")) as Record<string, unknown>;
    const told = new Set<string>();
    JSON.stringify(document, (name, member: unknown) => {
        const pattern = typeof member === "object" && member !== null && "pattern" in member ? member.pattern : null;
        if (pattern === "^[0-9]+$") told.add(name);
        return member;
    });
    const found = new Set<string>();
    JSON.stringify(answers, (name, member: unknown) => {
        if (typeof member !== "bigint") return member;
        found.add(name);
        return String(member);
    });
    assert.deepEqual([...found].sort(), [...told].sort());
}

const sandboxes = await all(reader.sandboxes({ limit: 1 }));
const ids = sandboxes.map((sandbox) => sandbox.sandboxId);
assert.ok(ids.includes(sandboxId));
assert.deepEqual(ids, [...ids].sort());
const sandbox = await reader.sandbox(sandboxId);
assert.ok(sandbox.endedAt !== null && sandbox.generation > BigInt(Number.MAX_SAFE_INTEGER));

const slices = await all(reader.slices(sandboxId, { limit: 2 }));
slices.forEach((slice, index) => {
    assert.equal(slice.seq, index + 1);
    const before = slices[index - 1];
    if (before) assert.deepEqual([before.closedBy, before.endedAt], [slice.openedBy, slice.startedAt]);
});
const last = slices.at(-1);
assert.ok(last?.endedAt);
assert.deepEqual(await all(reader.slices(sandboxId, { from: last.startedAt, to: last.endedAt })), [last]);

const tags = { team: "red", generation: "7", a: "ü & 😀" };
const first = await writer.replaceTags(sandboxId, tags);
assert.deepEqual(first.tags, tags);
assert.deepEqual(await writer.replaceTags(sandboxId, tags), first);
assert.deepEqual(await reader.tags(sandboxId), first);
const keys = await all(reader.tagKeys({ limit: 1 }));
assert.ok(keys.some((key) => key.key === "team" && key.sandboxCount >= 1));

const from = new Date(Date.now() - 2 * 86_400_000);
const alone = await reader.sandboxUsage(sandboxId, { from, interval: "1h" });
const exact = alone.memoryByteNanoseconds;
assert.ok(exact > 0n && alone.points);
assert.equal(alone.points.reduce((sum, point) => sum + point.memoryByteNanoseconds, 0n), exact);
const page = await reader.usage({ groupBy: "tag:team", filters: { team: ["red"] }, interval: "1d" });
const red = page.items[0];
assert.ok(page.untagged && page.points && red?.value === "red" && red.memoryByteNanoseconds >= exact);
assert.equal(page.total.memoryByteNanoseconds, red.memoryByteNanoseconds);
const items = await all(reader.usageItems({ limit: 1 }));
assert.equal(items.find((item) => item.sandboxId === sandboxId)?.memoryByteNanoseconds, exact);
const without = await all(reader.usageItems({ filters: { team: [] } }));
assert.ok(!without.some((item) => item.sandboxId === sandboxId));
checkSpecification([sandbox, alone, page, ...slices]);

await refused("SANDBOX_NOT_FOUND", 404, () => reader.sandbox("no/such?one"));
await refused("PERMISSION_DENIED", 403, () => reader.replaceTags(sandboxId, {}));
await refused("INVALID_TAG", 400, () => writer.replaceTags(sandboxId, { "dm:x": "y" }));
await refused("INVALID_WINDOW", 400, () => reader.usage({ from: "2026-03-02", to: "2026-03-01" }));
await refused("INVALID_CURSOR", 400, () => reader.usage({ cursor: "forged" }));
await refused("UNAUTHENTICATED", 401, () => new Client(baseUrl, "nobody's").tags(sandboxId));
assert.equal(Problem.read(418, { reason: "OF_A_NEWER_SERVER" }).reason, "UNKNOWN");
await assert.rejects(() => new Client("http://127.0.0.1:9", "t", { timeoutMs: 5_000 }).tags(sandboxId), Unreachable);
assert.deepEqual((await writer.replaceTags(sandboxId, { team: "red" })).tags, { team: "red" });
console.log(`${sandboxId} ${exact} byte-nanoseconds, team=red ${red.memoryByteNanoseconds}`);
