/**
 * Which upstream a CancelRequest belongs to. A session enters the key that its upstream gave out, and takes it back when
 * it ends; a key that is not here is met with silence. [PG protocol-flow/CANCELING-REQUESTS]
 * The interface is what several processes will share one day; this file has the implementation for one.
 */
import type { CancelRequest } from "../../protocol/startup.ts";
import type { BackendKey } from "../../protocol/backend-messages.ts";
import type { UpstreamAddress } from "./dial.ts";

export interface CancelKeys {
  /** Makes `key` reach `address` until the result is disposed of. */
  register(key: BackendKey, address: UpstreamAddress): Disposable;
  /** Where the request's key belongs now; undefined when no session holds it. */
  find(request: CancelRequest): UpstreamAddress | undefined;
}

export function createCancelKeys(): CancelKeys {
  const addresses = new Map<string, UpstreamAddress>();
  return {
    register(key, address) {
      const index = indexOf(key);
      addresses.set(index, address);
      return {
        [Symbol.dispose]: () => {
          if (addresses.get(index) === address) addresses.delete(index);
        },
      };
    },
    find: (request) => addresses.get(indexOf(request)),
  };
}

function indexOf({ processId, secret }: BackendKey): string {
  return `${processId}:${secret.toString("latin1")}`;
}
