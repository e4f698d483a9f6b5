/** Asking the server. */

import { read } from "./answers.js";
import type { Sandbox, SandboxUsage, Slice, TagKey, Tags, Usage, UsageItem } from "./answers.js";
import { Problem, Unreachable } from "./problem.js";

export interface ClientOptions {
    /** How long an answer may take. The server gives it up after 10 seconds. */
    readonly timeoutMs?: number;
}

/** How many items are asked for at once; an iterator goes on through all pages. */
export interface Page {
    readonly limit?: number;
}

interface WindowQuery {
    readonly from?: string | Date;
    readonly to?: string | Date;
}

export interface UsageOfQuery extends WindowQuery {
    readonly interval?: "1h" | "1d";
    readonly basis?: "plugged" | "requested" | "greater" | "lesser";
}

export interface SlicesQuery extends WindowQuery, Page {}

export interface UsageItemsQuery extends UsageOfQuery, Page {
    readonly groupBy?: "sandbox" | `tag:${string}`;
    /** Tag keys with the values that count; an empty list counts what has no tag of the key. */
    readonly filters?: Readonly<Record<string, readonly string[]>>;
    readonly attribution?: "live" | "asof";
    readonly sort?: "-memoryGbSeconds" | "-diskOverageGbSeconds";
}

export interface UsageQuery extends UsageItemsQuery {
    readonly cursor?: string;
}

interface Paged<T> {
    readonly items: readonly T[];
    readonly nextCursor: string | null;
}

type Params = Readonly<Record<string, string | number | Date | undefined>>;

const TIMEOUT_MS = 15_000;

/** Speaks for the org of one token. */
export class Client {
    readonly #baseUrl: string;
    readonly #token: string;
    readonly #timeoutMs: number;

    constructor(baseUrl: string, token: string, options: ClientOptions = {}) {
        if (!/^https?:\/\//.test(baseUrl)) throw new TypeError("the base URL begins with http:// or https://");
        this.#baseUrl = baseUrl.replace(/\/+$/, "");
        this.#token = token;
        this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    }

    /** A page of the org's usage, by sandbox or by `tag:KEY`. */
    async usage(query: UsageQuery = {}): Promise<Usage> {
        const { filters = {}, ...params } = query;
        const filtered = Object.entries(filters).map(([key, values]) => [`filter[tag:${key}]`, values.join(",")]);
        return this.#ask<Usage>("GET", "/api/usage", { ...params, ...Object.fromEntries(filtered) });
    }

    /** All items, the greatest first, page after page. All pages tell of one moment. */
    async *usageItems(query: UsageItemsQuery = {}): AsyncGenerator<UsageItem, void, undefined> {
        yield* pages((cursor) => this.usage(cursor === undefined ? query : { ...query, cursor }));
    }

    /** All sandboxes of the org by id, those that have ended too. */
    sandboxes(page: Page = {}): AsyncGenerator<Sandbox, void, undefined> {
        return this.#all<Sandbox>("/api/sandboxes", { ...page });
    }

    /** One sandbox. */
    async sandbox(sandboxId: string): Promise<Sandbox> {
        return this.#ask<Sandbox>("GET", path(sandboxId));
    }

    /** One sandbox's usage, whether it still lives or not. */
    async sandboxUsage(sandboxId: string, query: UsageOfQuery = {}): Promise<SandboxUsage> {
        return this.#ask<SandboxUsage>("GET", path(sandboxId, "/usage"), { ...query });
    }

    /** The slices of one sandbox, oldest first: all, or those with time in a window. */
    slices(sandboxId: string, query: SlicesQuery = {}): AsyncGenerator<Slice, void, undefined> {
        return this.#all<Slice>(path(sandboxId, "/slices"), { ...query });
    }

    /** The tags of one sandbox. */
    async tags(sandboxId: string): Promise<Tags> {
        return this.#ask<Tags>("GET", path(sandboxId, "/tags"));
    }

    /** Replaces all the tags of one sandbox; `{}` clears them, and the same again change nothing. */
    async replaceTags(sandboxId: string, tags: Readonly<Record<string, string>>): Promise<Tags> {
        return this.#ask<Tags>("PUT", path(sandboxId, "/tags"), {}, tags);
    }

    /** The keys that the org's sandboxes are tagged with, in order. */
    tagKeys(page: Page = {}): AsyncGenerator<TagKey, void, undefined> {
        return this.#all<TagKey>("/api/tags", { ...page });
    }

    async *#all<T>(path: string, params: Params): AsyncGenerator<T, void, undefined> {
        yield* pages((cursor) => this.#ask<Paged<T>>("GET", path, { ...params, cursor }));
    }

    async #ask<T>(method: "GET" | "PUT", path: string, params: Params = {}, body?: unknown): Promise<T> {
        const url = new URL(`${this.#baseUrl}${path}`);
        for (const [name, value] of Object.entries(params)) {
            if (value !== undefined) url.searchParams.set(name, written(value));
        }
        const [status, text] = await this.#fetch(url, {
            method,
            headers: {
                Authorization: `Bearer ${this.#token}`,
                Accept: "application/json",
                ...(body === undefined ? {} : { "Content-Type": "application/json" }),
            },
            ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        });
        const answer = object(text);
        if (status < 200 || status > 299) throw Problem.read(status, answer);
        return answer as T;
    }

    async #fetch(url: URL, init: RequestInit): Promise<[number, string]> {
        try {
            const signal = AbortSignal.timeout(this.#timeoutMs);
            const response = await fetch(url, { ...init, signal, redirect: "error" });
            return [response.status, await response.text()];
        } catch (cause) {
            throw new Unreachable(`${this.#baseUrl} does not answer`, { cause });
        }
    }
}

async function* pages<T>(
    ask: (cursor: string | undefined) => Promise<Paged<T>>,
): AsyncGenerator<T, void, undefined> {
    let cursor: string | undefined;
    do {
        const page = await ask(cursor);
        yield* page.items;
        cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
}

function object(text: string): Record<string, unknown> {
    let answer: unknown;
    try {
        answer = read(text);
    } catch (cause) {
        throw new Unreachable("the answer is no JSON: something else than Dormouse has answered", { cause });
    }
    if (typeof answer !== "object" || answer === null) {
        throw new Unreachable("the answer is no JSON object: something else than Dormouse has answered");
    }
    return answer as Record<string, unknown>;
}

function written(value: string | number | Date): string {
    return value instanceof Date ? value.toISOString() : String(value);
}

function path(sandboxId: string, rest = ""): string {
    return `/api/sandboxes/${encodeURIComponent(sandboxId)}${rest}`;
}
