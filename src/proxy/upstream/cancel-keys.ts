/**
 * Which upstream a CancelRequest belongs to. A session enters the key that its upstream gave out, and takes it back when
 * it ends; a key that is not here is met with silence. [PG protocol-flow/CANCELING-REQUESTS]
 * The interface is what several processes will share one day; this file has the implementation for one.
 */
import { randomBytes, randomInt } from "node:crypto";
import { MIN_CANCEL_SECRET } from "../../protocol/limits.ts";
import type { CancelRequest } from "../../protocol/startup.ts";
import type { BackendKey } from "../../protocol/backend-messages.ts";
import type { UpstreamAddress } from "./dial.ts";

const LONG_SECRET_BYTES = 32;

/** Where a key leads: a server, and the key that the server knows the session by. */
export interface CancelTarget {
  readonly address: UpstreamAddress;
  readonly key: BackendKey;
}

export interface CancelKeys {
  /** Makes `key` lead to `target` until the result is disposed of. */
  register(key: BackendKey, target: CancelTarget): Disposable;
  /** Where the request's key leads now; undefined when no session holds it. */
  find(request: CancelRequest): CancelTarget | undefined;
}

/** A key of our own, for a client whose session is lent: as long as protocol 3.minor allows. */
export function createCancelKey(minor: number): BackendKey {
  return { processId: randomInt(1, 2 ** 31), secret: randomBytes(minor >= 2 ? LONG_SECRET_BYTES : MIN_CANCEL_SECRET) };
}

export function createCancelKeys(): CancelKeys {
  const targets = new Map<string, CancelTarget>();
  return {
    register(key, target) {
      const index = indexOf(key);
      targets.set(index, target);
      return {
        [Symbol.dispose]: () => {
          if (targets.get(index) === target) targets.delete(index);
        },
      };
    },
    find: (request) => targets.get(indexOf(request)),
  };
}

function indexOf({ processId, secret }: BackendKey): string {
  return `${processId}:${secret.toString("latin1")}`;
}
