/**
 * `npm run generate`: writes what is made from the table of settings, pgvpd.conf.example, docs/configuration.md and
 * the table in README.md.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { renderDocumentation, renderExampleFile, renderIntoReadme } from "../../src/config/render.ts";

const root = new URL("../../", import.meta.url);
writeFileSync(new URL("pgvpd.conf.example", root), renderExampleFile());
writeFileSync(new URL("docs/configuration.md", root), renderDocumentation());
const readme = new URL("README.md", root);
writeFileSync(readme, renderIntoReadme(readFileSync(readme, "utf8")));
