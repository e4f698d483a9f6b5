/** What is answered: as the specification has it, but that exact integers are `bigint`. */

/** A half-open window. Times are RFC 3339 with nanoseconds, which `Date` has not. */
export interface Window {
    readonly from: string;
    readonly to: string;
}

/** What was used: numbers for people, and the exact integers. 1 GB-second is 2^30 bytes for one second. */
export interface Amounts {
    readonly memoryGbSeconds: number;
    readonly diskOverageGbSeconds: number;
    readonly vcpuSeconds: number;
    readonly memoryByteNanoseconds: bigint;
    readonly diskOverageByteNanoseconds: bigint;
    readonly vcpuMilliNanoseconds: bigint;
    readonly diskByteNanoseconds: bigint;
}

/** The tags of a sandbox. */
export interface Tags {
    readonly tags: Readonly<Record<string, string>>;
    readonly tagsLastUpdatedAt: string | null;
}

/** An hour or a day, cut at the ends of the window. */
export interface Point extends Window, Amounts {}

/** What a sandbox, or all time with one value of the tag, amounts to. */
export interface UsageItem extends Amounts, Partial<Tags> {
    readonly sandboxId?: string;
    readonly value?: string;
}

/** A page of an org's usage. The total is of everything that matches, whichever page. */
export interface Usage {
    readonly window: Window;
    readonly groupBy: string;
    readonly basis: string;
    readonly items: readonly UsageItem[];
    readonly untagged?: Amounts;
    readonly total: Amounts;
    readonly points?: readonly Point[];
    readonly nextCursor: string | null;
}

/** One sandbox's usage, whether it still lives or not. */
export interface SandboxUsage extends Amounts, Tags {
    readonly sandboxId: string;
    readonly window: Window;
    readonly basis: string;
    readonly firstStartedAt: string | null;
    readonly lastEndedAt: string | null;
    readonly points?: readonly Point[];
}

/** A sandbox, as its latest generation stands. */
export interface Sandbox extends Tags {
    readonly sandboxId: string;
    readonly generation: bigint;
    readonly plan: string | null;
    readonly lifecycle: string;
    readonly createdAt: string;
    readonly endedAt: string | null;
}

/** A key that sandboxes are tagged with. */
export interface TagKey {
    readonly key: string;
    readonly sandboxCount: number;
    readonly valueCount: number;
}

/** A half-open interval of a sandbox's life at one shape and in one billing state, with both causes. */
export interface Slice {
    readonly generation: bigint;
    readonly seq: number;
    readonly state: string;
    readonly reason: string | null;
    readonly startedAt: string;
    readonly endedAt: string | null;
    readonly durationNanoseconds: bigint;
    readonly vcpusMilli: number;
    readonly memoryBaseBytes: number;
    readonly memoryPluggedBytes: number;
    readonly memoryRequestedBytes: number;
    readonly diskBytes: number;
    readonly openedBy: string;
    readonly closedBy: string | null;
    readonly commandId: string | null;
    readonly uncertaintyNanoseconds: bigint;
    readonly final: boolean;
}

/** The members that are integers written as strings, wherever they stand. */
const EXACT: ReadonlySet<string> = new Set([
    "memoryByteNanoseconds",
    "diskOverageByteNanoseconds",
    "vcpuMilliNanoseconds",
    "diskByteNanoseconds",
    "durationNanoseconds",
    "uncertaintyNanoseconds",
    "generation",
]);

/** Reads an answer: exact integers become `bigint`. Tags are text, whatever they are called. */
export function read(json: string): unknown {
    return exact(JSON.parse(json) as unknown);
}

function exact(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(exact);
    if (typeof value !== "object" || value === null) return value;
    const members = Object.entries(value).map(([name, member]: [string, unknown]) => {
        if (name === "tags") return [name, member];
        return [name, EXACT.has(name) && typeof member === "string" ? BigInt(member) : exact(member)];
    });
    return Object.fromEntries(members) as unknown;
}
