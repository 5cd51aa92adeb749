/**
 * `npm run generate`: writes what is made from the table of settings, pgvpd.conf.example and docs/configuration.md.
 */
import { writeFileSync } from "node:fs";
import { renderDocumentation, renderExampleFile } from "../../src/config/render.ts";

const root = new URL("../../", import.meta.url);
writeFileSync(new URL("pgvpd.conf.example", root), renderExampleFile());
writeFileSync(new URL("docs/configuration.md", root), renderDocumentation());
