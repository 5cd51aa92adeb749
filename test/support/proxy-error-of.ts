/** What a client would learn of a refusal: for the tests of pure functions. */
import { ProxyError } from "../../src/errors/proxy-error.ts";

/** The ProxyError that `work` throws; anything else it does fails the test. */
export function proxyErrorOf(work: () => unknown): ProxyError {
  try {
    work();
  } catch (error) {
    if (error instanceof ProxyError) return error;
    throw error;
  }
  throw new Error("expected a ProxyError, but nothing was thrown");
}

/** Its SQLSTATE. */
export const sqlstateOf = (work: () => unknown): string => proxyErrorOf(work).definition.sqlstate;
