/**
 * How many connections clients may have before anybody knows who they are: in all, and from one address. A connection
 * beyond a limit may still carry a CancelRequest, so it is refused when it turns out to be something else.
 */
import { isIPv4, isIPv6 } from "node:net";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";

export type PlaceConfig = Pick<Config, "maxClientConn" | "maxClientConnPerAddress">;

/** Connections beyond max_client_conn that may say what they want; any more are closed unheard. */
const MAX_UNHEARD = 100;

/** A connection's place, until it is disposed of; a second time does nothing. */
export interface ClientPlace extends Disposable {
  /** Undefined where the connection is within the limits. */
  readonly refusal: ProxyError | undefined;
  /** False: it is closed without reading a byte of it. */
  readonly isHeard: boolean;
}

export class ClientPlaces {
  #config: PlaceConfig;
  #total = 0;
  readonly #byAddress = new Map<string, number>();

  constructor(config: PlaceConfig) {
    this.#config = config;
  }

  /** How many are taken, by everybody and by addresses. */
  get size(): number {
    return this.#total + this.#byAddress.size;
  }

  /** Holds for connections from now on. */
  use(config: PlaceConfig): void {
    this.#config = config;
  }

  /** @param address undefined for a Unix-domain socket, which counts in the total alone. */
  take(address: string | undefined): ClientPlace {
    const { maxClientConn, maxClientConnPerAddress } = this.#config;
    const source = address === undefined ? undefined : sourceOf(address);
    this.#total += 1;
    const fromSource = source === undefined ? 0 : this.#count(source, 1);
    let refusal: ProxyError | undefined;
    if (maxClientConn !== undefined && this.#total > maxClientConn) {
      refusal = new ProxyError("client_connections", { params: { limit: maxClientConn } });
    } else if (maxClientConnPerAddress !== undefined && fromSource > maxClientConnPerAddress) {
      const params = { host: source as string, limit: maxClientConnPerAddress };
      refusal = new ProxyError("address_connections", { params });
    }
    const isHeard =
      this.#total <= (maxClientConn ?? Infinity) + MAX_UNHEARD &&
      fromSource <= (maxClientConnPerAddress ?? Infinity) + MAX_UNHEARD;
    let isTaken = true;
    return {
      refusal,
      isHeard,
      [Symbol.dispose]: () => {
        if (!isTaken) return;
        isTaken = false;
        this.#total -= 1;
        if (source !== undefined) this.#count(source, -1);
      },
    };
  }

  #count(source: string, change: 1 | -1): number {
    const count = (this.#byAddress.get(source) ?? 0) + change;
    if (count > 0) this.#byAddress.set(source, count);
    else this.#byAddress.delete(source);
    return count;
  }
}

/** An IPv4 address, however it is written; of IPv6 the first 64 bits, which one machine has as a whole. */
export function sourceOf(address: string): string {
  const v4 = address.replace(/^::ffff:/i, "");
  if (isIPv4(v4) || !isIPv6(address)) return v4;
  const [head = "", tail = ""] = (address.split("%")[0] as string).split("::");
  const groups = [...head.split(":"), ...tail.split(":")].filter((group) => group !== "");
  const zeros = Array.from({ length: 8 - groups.length }, () => "0");
  const before = head === "" ? 0 : head.split(":").length;
  return `${[...groups.slice(0, before), ...zeros, ...groups.slice(before)].slice(0, 4).join(":")}::/64`;
}
