/**
 * Every peer there is, in the order in which the tables show them. A new peer is a file beside this one and a line here.
 */
import type { Peer } from "../peer.ts";
import { direct } from "./direct.ts";
import { haproxy } from "./haproxy.ts";
import { nodePipe } from "./node-pipe.ts";
import { pgbouncer, pgbouncerLargeBuffer, pgbouncerPools } from "./pgbouncer.ts";
import { floodVariants, policyVariants } from "./pgvpd-policy.ts";
import { pgvpd, pgvpdOther, pgvpdPools, pgvpdScram, resolverVariants, sealVariants } from "./pgvpd.ts";

export const allPeers: readonly Peer[] = [
  direct,
  pgvpd,
  pgvpdOther,
  pgvpdScram,
  ...resolverVariants,
  ...sealVariants,
  ...pgvpdPools,
  ...floodVariants,
  ...policyVariants,
  nodePipe,
  pgbouncer,
  pgbouncerLargeBuffer,
  ...pgbouncerPools,
  haproxy,
];
