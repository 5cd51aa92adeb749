/** What a session does at this moment, as its timers see it. */

export interface Activity {
  /**
   * - `busy`: the server works for the client, or is about to.
   * - `held`: inside of a transaction, or of a COPY, and the server waits for the client.
   * - `idle`: outside of both.
   * - `unclear`: one of these, and nothing that was read tells which; what bounds each of them holds then.
   * - `waiting`: for pgvpd itself, which has limits of its own for that.
   */
  readonly state: "busy" | "held" | "idle" | "unclear" | "waiting";
  /** Changes when something was read from the client. */
  readonly clientReads: number;
  readonly upstreamReads: number;
  /** Changes when a request was answered. */
  readonly answers: number;
  /** Changes when a transaction has ended. */
  readonly transactions: number;
}
