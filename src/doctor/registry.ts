/** Every topic of doctor, in the order in which they are looked at: what makes others worthless comes first. */
import type { Topic } from "./catalog-check.ts";
import { columns } from "./columns.ts";
import { policies } from "./policies.ts";
import { probes } from "./probes.ts";
import { publicRights } from "./public-rights.ts";
import { roles } from "./roles.ts";
import { seal } from "./seal.ts";
import { serverVersion } from "./server-version.ts";
import { settings } from "./settings.ts";
import { tables } from "./tables.ts";
import { viewsAndFunctions } from "./views-and-functions.ts";

const CATALOG_TOPICS: readonly Topic[] = [
  serverVersion,
  roles,
  tables,
  policies,
  columns,
  viewsAndFunctions,
  publicRights,
  settings,
  seal,
];

/** `tables`: on the tables of the application too. */
export type Probing = "off" | "scratch" | "tables";

export function topicsFor(probing: Probing): readonly Topic[] {
  return probing === "off" ? CATALOG_TOPICS : [...CATALOG_TOPICS, probes(probing === "tables")];
}
