/** What goes wrong, with a stable reason. */

/** The stable reason codes; a server may be newer than this list. */
export const REASONS = [
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "NO_SUCH_RESOURCE",
    "SANDBOX_NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "INVALID_PARAMETER",
    "REPEATED_PARAMETER",
    "INVALID_WINDOW",
    "INVALID_CURSOR",
    "INVALID_BODY",
    "INVALID_TAG",
    "BODY_TOO_LARGE",
    "RATE_LIMITED",
    "DEADLINE_EXCEEDED",
    "LEDGER_UNWRITABLE",
    "LEDGER_UNREADABLE",
    "BUG",
] as const;

export type Reason = (typeof REASONS)[number] | "UNKNOWN";

/** The server has refused, or could not answer (RFC 9457). */
export class Problem extends Error {
    override readonly name = "Problem";

    constructor(
        readonly status: number,
        readonly reason: Reason,
        readonly title: string,
        readonly detail: string,
    ) {
        super(`${title}: ${detail} [${reason}]`);
    }

    /** Reads a problem from its JSON. */
    static read(status: number, json: Readonly<Record<string, unknown>>): Problem {
        const reason = REASONS.find((known) => known === json["reason"]) ?? "UNKNOWN";
        return new Problem(status, reason, String(json["title"] ?? ""), String(json["detail"] ?? ""));
    }
}

/** There was no answer, or none that is the server's. */
export class Unreachable extends Error {
    override readonly name = "Unreachable";
}
