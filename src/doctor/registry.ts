/** Every topic of doctor that is read from catalogs, in the order in which they are looked at: what makes others worthless comes first. */
import type { Topic } from "./catalog-check.ts";
import { columns } from "./columns.ts";
import { policies } from "./policies.ts";
import { publicRights } from "./public-rights.ts";
import { roles } from "./roles.ts";
import { seal } from "./seal.ts";
import { serverVersion } from "./server-version.ts";
import { settings } from "./settings.ts";
import { tables } from "./tables.ts";
import { viewsAndFunctions } from "./views-and-functions.ts";

export const CATALOG_TOPICS: readonly Topic[] = [
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
