/**
 * Networks as `allow_from` has them: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`, and `user@network` for one user alone.
 */
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { quoted } from "./one-line.ts";
import { SettingError } from "./setting-types.ts";

interface Network {
  readonly address: string;
  readonly prefix: number;
  readonly family: "ipv4" | "ipv6";
}

/** An entry of `allow_from`: the network, and the user that it is for; undefined for everybody. */
interface NetworkEntry {
  readonly user: string | undefined;
  readonly network: Network;
}

/** @throws SettingError naming the entry. */
export function checkNetworks(entries: readonly string[]): void {
  for (const entry of entries) parseEntry(entry);
}

/** The users that entries are for. */
export function usersOfNetworks(entries: readonly string[]): ReadonlySet<string> {
  return new Set(entries.flatMap((entry) => parseEntry(entry).user ?? []));
}

/** Which addresses may connect as whom. */
export class AllowedNetworks {
  readonly #everybody: BlockList | undefined;
  readonly #users = new Map<string, BlockList>();

  /** @param entries of `allow_from`; empty: every address is allowed. @throws SettingError naming the entry. */
  constructor(entries: readonly string[]) {
    for (const { user, network } of entries.map(parseEntry)) {
      if (user === undefined) add((this.#everybody ??= new BlockList()), network);
      else {
        const list = this.#users.get(user) ?? new BlockList();
        add(list, network);
        this.#users.set(user, list);
      }
    }
  }

  /**
   * A bypass user with entries of its own is held to those; everybody else to the entries without a user, where there
   * are any.
   *
   * @param address of the client, without its port; undefined for a Unix-domain socket, which no network limits.
   * @param user undefined for a tenant's.
   */
  allows(address: string | undefined, user: string | undefined): boolean {
    if (address === undefined) return true;
    const list = (user === undefined ? undefined : this.#users.get(user)) ?? this.#everybody;
    if (list === undefined) return true;
    // BlockList knows both that fe80::1%eth0 is fe80::1, and that the IPv4 client of an IPv6 socket, ::ffff:192.0.2.7, is
    // 192.0.2.7.
    return list.check(address, isIPv4(address) ? "ipv4" : "ipv6");
  }
}

function add(list: BlockList, { address, prefix, family }: Network): void {
  list.addSubnet(address, prefix, family);
}

function parseEntry(entry: string): NetworkEntry {
  const at = entry.lastIndexOf("@");
  const network = parseNetwork(entry.slice(at + 1));
  if (network === undefined || at === 0) {
    throw new SettingError(`${quoted(entry)} is not a network: write 10.0.0.0/8, 2001:db8::/32, or user@192.0.2.7`);
  }
  return { user: at === -1 ? undefined : entry.slice(0, at), network };
}

function parseNetwork(text: string): Network | undefined {
  const [address = "", prefixText, ...rest] = text.split("/");
  const bits = isIPv4(address) ? 32 : isIPv6(address) && !address.includes("%") ? 128 : undefined;
  if (bits === undefined || rest.length > 0) return undefined;
  if (prefixText !== undefined && !/^\d{1,3}$/.test(prefixText)) return undefined;
  const prefix = prefixText === undefined ? bits : Number(prefixText);
  return prefix > bits ? undefined : { address, prefix, family: bits === 32 ? "ipv4" : "ipv6" };
}
