/**
 * Random and damaged startup packets. What is decoded is encoded again to the same bytes; what is no packet gives a
 * ProxyError; and whatever a tenant sends, the upstream's StartupMessage says what pgvpd decided.
 */
import { expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import {
  decodeStartupPacket,
  encodeStartupMessage,
  foldName,
  startupPacketLength,
  type StartupMessage,
} from "../../src/protocol/startup.ts";
import { identify } from "../../src/proxy/tenant/identify.ts";
import { encodeTenantStartup } from "../../src/proxy/upstream/tenant-startup.ts";
import { bytes, cstring, int32, startupPacket } from "../support/bytes.ts";
import { FUZZ_RUNS, fuzz, type SeededRandom } from "../support/seeded-random.ts";
import { testConfig } from "../support/test-config.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.35);

const CONFIGS = [
  testConfig(),
  testConfig({ contextInjection: "query", setRole: "app" }),
  testConfig({ contextVariables: ["app.tenant", "App.User"], tenantSeparator: "::", valueSeparator: ":" }),
  testConfig({ clientParameters: ["work_mem", "search_path"], ignoreStartupParameters: ["extra_float_digits"] }),
];

const NAMES = [
  "user", "USER", "database", "Database", "options", "Options", "replication", "role", "Role", "app.current_tenant_id",
  "APP.Current_Tenant_Id", "app.tenant", "app.user", "search_path", "client_encoding", "Client_Encoding", "work_mem",
  "session_authorization", "row_security", "_pq_.x", "_PQ_.x", "application_name", "extra_float_digits", "\xff", "a b",
]; // prettier-ignore

const VALUES = [
  "", "app_user.acme", "app_user.acme:1", "app_user::acme:1", "postgres", "postgres.acme", ".", "app_user.", ".acme", "off",
  "database", "true", "x", "-c role=postgres", "--user=postgres", "-c user=x -c database=y", "-c app.current-tenant-id=z",
  "-c App\\.Tenant=z", "-cUSER=x", "-c replication=database", "-c _pq_.a=b", "-c options=-crole=x", "--search-path=x",
  "\\", "-c", "--", "-c=", "UTF8", "\xc3\xa9", "\xff\xfe",
]; // prettier-ignore

const USERS = ["app_user.acme", "app_user.acme:1", "app_user::acme", "app_user::acme:1"];

const latin1 = (text: string): Buffer => Buffer.from(text, "latin1");

function randomPacket(random: SeededRandom): Buffer {
  if (random.oneIn(10)) return startupPacket(random.bytes(4 + random.below(60)));
  const codes = [196_608, 196_608, 196_608, 196_610, 196_617, 131_072, 80_877_102, 80_877_103, 80_877_104, -1];
  const parts: Buffer[] = [int32(random.oneIn(3) ? random.pick(codes) : 196_608)];
  if (!random.oneIn(8))
    parts.push(cstring("user"), cstring(random.oneIn(3) ? latin1(random.pick(VALUES)) : random.pick(USERS)));
  for (let count = random.below(4); count > 0; count--) {
    const name = random.oneIn(10) ? random.bytes(random.below(12)) : latin1(random.pick(NAMES));
    const value = random.oneIn(10) ? random.bytes(random.below(40)) : latin1(random.pick(VALUES));
    parts.push(cstring(name), cstring(value));
  }
  parts.push(Buffer.alloc(1));
  const packet = startupPacket(...parts);
  if (!random.oneIn(4)) return packet;
  const damaged = random.mutate(packet);
  if (damaged.length >= 8 && !random.oneIn(4)) damaged.writeInt32BE(damaged.length, 0);
  return damaged;
}

/** The value of `work`, or undefined when it throws a ProxyError. Anything else is thrown on. */
function unlessRefused<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof ProxyError) return undefined;
    throw error;
  }
}

function check(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

function checkUpstream(startup: StartupMessage, random: SeededRandom): boolean {
  const config = random.pick(CONFIGS);
  const identity = unlessRefused(() => identify(startup, config));
  if (identity?.kind !== "tenant") return false;
  check(identity.loginRole !== "" && identity.tenant !== "", "an empty role or tenant");
  check(
    Buffer.byteLength(identity.loginRole) <= 63 && Buffer.byteLength(identity.database) <= 63,
    "a name that is cut",
  );

  // Decoding it refuses names that come twice.
  const upstream = decodeStartupPacket(encodeTenantStartup(identity, config, [])) as StartupMessage;
  const sent = new Map(upstream.parameters.map(({ name, value }) => [foldName(name), value.toString()]));
  check(sent.get("user") === identity.loginRole, `logs in as ${sent.get("user")}`);
  check(sent.get("database") === identity.database, `goes to database ${sent.get("database")}`);
  check(sent.get("client_encoding") === "UTF8" && sent.get("row_security") === "on", "a pinned value has gone");
  const inStartup = config.contextInjection === "startup";
  check(sent.get("role") === (inStartup ? identity.targetRole : undefined), `takes on role ${sent.get("role")}`);
  for (const { name, value } of identity.context) {
    check(sent.get(foldName(name)) === (inStartup ? value : undefined), `${name} is ${sent.get(foldName(name))}`);
  }
  for (const name of ["options", "replication", "search_path", "session_authorization"]) {
    check(!sent.has(name), `${name} is sent`);
  }
  check(![...sent.keys()].some((name) => name.startsWith("_pq_.")), "a protocol option is sent");
  return true;
}

it(`decodes ${RUNS.toLocaleString("en")} random packets, or refuses them`, { timeout: 600_000 }, () => {
  let decoded = 0;
  let identified = 0;
  fuzz(RUNS, (random) => {
    const packet = randomPacket(random);
    if (packet.length < 8) {
      if (packet.length >= 4) unlessRefused(() => startupPacketLength(packet));
      return;
    }
    unlessRefused(() => startupPacketLength(packet));
    packet.writeInt32BE(packet.length, 0);
    const found = unlessRefused(() => decodeStartupPacket(packet));
    if (found?.kind === "startup") {
      decoded++;
      check(encodeStartupMessage(found.minor, found.parameters).equals(packet), "encodes to other bytes");
      if (checkUpstream(found, random)) identified++;
    } else if (found?.kind === "cancel") {
      const again = bytes(int32(packet.length), int32(80_877_102), int32(found.processId), found.secret);
      check(again.equals(packet), "a CancelRequest encodes to other bytes");
    } else if (found !== undefined) {
      check(packet.length === 8, "an encryption request with something behind it");
    }
  });
  // The generator is worth its time only when much of what it makes comes through.
  if (RUNS >= 10_000) {
    expect(decoded).toBeGreaterThan(RUNS / 4);
    expect(identified).toBeGreaterThan(RUNS / 20);
  }
});
