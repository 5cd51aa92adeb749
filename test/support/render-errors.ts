/** docs/errors.md from the catalogue of errors: for operators who see a code in the log, and for developers of clients. */
import { catalogue, type Blame, type ErrorDefinition } from "../../src/errors/catalogue.ts";

const WHOSE: Readonly<Record<Blame, string>> = {
  client: "the client sent something that it may not",
  tenant: "the configuration does not let this tenant or role in",
  upstream: "the upstream server, or the way to it",
  proxy: "pgvpd itself",
};

export function renderErrors(): string {
  const rows = Object.entries(catalogue).map(([code, definition]: [string, ErrorDefinition]) => {
    const { sqlstate, severity, blame, text, hint } = definition;
    return `| \`${code}\` | ${sqlstate} | ${severity} | ${blame} | ${cell(text)} | ${cell(hint ?? "")} |`;
  });
  return `# Errors

Every error that pgvpd itself sends. Whatever the upstream server says passes byte for byte, and is not listed here.
\`code\` is the name in the log and in the metric \`pgvpd_errors_total{code, blame}\`; \`{...}\` is filled in when the error
is sent. This page is generated from \`src/errors/catalogue.ts\`.

| code | SQLSTATE | severity | blame | message | hint |
|---|---|---|---|---|---|
${rows.join("\n")}

Blame says whose the fault is, and decides how loudly the log says it:

${Object.entries(WHOSE)
  .map(([blame, whose]) => `- **${blame}**: ${whose}.`)
  .join("\n")}
`;
}

const cell = (text: string): string => text.replaceAll("|", "\\|");
