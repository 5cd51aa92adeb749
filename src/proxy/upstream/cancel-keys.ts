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

/** A target that stays what it is until a CancelRequest has reached it. */
export interface HeldTarget extends Disposable {
  readonly target: CancelTarget;
}

/** Whose query a key cancels. */
export interface CancelSubject {
  /** Undefined where nothing of it runs in the upstream now. */
  hold(): HeldTarget | undefined;
}

export interface CancelKeys {
  /** Makes `key` lead to `subject` until the result is disposed of. */
  register(key: BackendKey, subject: CancelSubject): Disposable;
  /** Whose key the request has; undefined when no session holds it. */
  find(request: CancelRequest): CancelSubject | undefined;
}

/** The session of a client that has one of its own. */
export function alwaysTo(target: CancelTarget): CancelSubject {
  return { hold: () => ({ target, [Symbol.dispose]: () => {} }) };
}

/** A key of our own, for a client whose session is lent: as long as protocol 3.minor allows. */
export function createCancelKey(minor: number): BackendKey {
  return { processId: randomInt(1, 2 ** 31), secret: randomBytes(minor >= 2 ? LONG_SECRET_BYTES : MIN_CANCEL_SECRET) };
}

export function createCancelKeys(): CancelKeys {
  const subjects = new Map<string, CancelSubject>();
  return {
    register(key, subject) {
      const index = indexOf(key);
      subjects.set(index, subject);
      return {
        [Symbol.dispose]: () => {
          if (subjects.get(index) === subject) subjects.delete(index);
        },
      };
    },
    find: (request) => subjects.get(indexOf(request)),
  };
}

function indexOf({ processId, secret }: BackendKey): string {
  return `${processId}:${secret.toString("latin1")}`;
}
