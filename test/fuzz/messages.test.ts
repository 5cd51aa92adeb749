/** Random bodies for every decoder of a message: a value, or a ProxyError, and nothing else. */
import { expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import {
  assertIdle,
  decodeAuthentication,
  decodeBackendKeyData,
  decodeDataRow,
  decodeNegotiateProtocolVersion,
  decodeParameterStatus,
  describeErrorResponse,
  encodeNegotiateProtocolVersion,
  withFatalSeverity,
} from "../../src/protocol/backend-messages.ts";
import { decodePassword } from "../../src/protocol/frontend-messages.ts";
import { encodeMessage } from "../../src/protocol/message.ts";
import { bytes, cstring, int32, server } from "../support/bytes.ts";
import { FUZZ_RUNS, fuzz } from "../support/seeded-random.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.1);

const BODIES = [
  server.dataRow("app_user", "f", null, "", "é"),
  server.backendKeyData(1, Buffer.alloc(32)),
  server.parameterStatus("server_version", "18.1"),
  server.negotiateProtocolVersion(196_608, "_pq_.a", "_pq_.b"),
  server.error("28P01", "no"),
  server.readyForQuery(),
  server.md5Password(Buffer.alloc(4)),
].map((message) => message.subarray(5));

const errorResponse = (body: Buffer): { type: number; body: Buffer; bytes: Buffer } => ({
  type: 0x45,
  body,
  bytes: encodeMessage(0x45, body),
});

const decoders: readonly ((body: Buffer) => unknown)[] = [
  decodeDataRow,
  decodeParameterStatus,
  decodeAuthentication,
  decodePassword,
  assertIdle,
  describeErrorResponse,
  (body) => decodeBackendKeyData(body, 0),
  (body) => {
    const { processId, secret } = decodeBackendKeyData(body, 2);
    expect(bytes(int32(processId), secret).equals(body)).toBe(true);
  },
  (body) => {
    const { minor, unknownOptions } = decodeNegotiateProtocolVersion(body);
    const again = encodeNegotiateProtocolVersion({ minor, unknownOptions }).subarray(5);
    expect(again.subarray(4).equals(body.subarray(4))).toBe(true);
  },
  (body) => {
    const { name, value } = decodeParameterStatus(body);
    const again = bytes(cstring(Buffer.from(name, "latin1")), cstring(Buffer.from(value, "latin1")));
    expect(again.equals(body)).toBe(true);
  },
  (body) => {
    const { bytes: whole } = withFatalSeverity(errorResponse(body));
    expect(whole.readInt32BE(1)).toBe(whole.length - 1);
  },
];

it(`decodes ${RUNS.toLocaleString("en")} random bodies, or refuses them`, { timeout: 600_000 }, () => {
  fuzz(RUNS, (random) => {
    const body = random.oneIn(4) ? random.bytes(random.below(40)) : random.mutate(random.pick(BODIES));
    try {
      random.pick(decoders)(body);
    } catch (error) {
      if (!(error instanceof ProxyError)) throw error;
    }
  });
});
