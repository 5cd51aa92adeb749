/**
 * Checks an answer of the HTTP API against /openapi.json: the path, the status and every property must stand there.
 */
import { Ajv2020 } from "ajv/dist/2020.js";
import { expect } from "vitest";
import type { Answer } from "./admin-client.ts";

interface Operation {
  readonly responses: Readonly<
    Record<string, { readonly content: Readonly<Record<string, { readonly schema: object }>> }>
  >;
}

export interface OpenApi {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

const ajv = new Ajv2020({ strict: true, allErrors: true });

export function expectDocumented(api: OpenApi, method: string, path: string, answer: Answer): void {
  const template = Object.keys(api.paths).find((one) => pattern(one).test(path.replace(/\?.*/, "")));
  const response = api.paths[template ?? ""]?.[method.toLowerCase()]?.responses[answer.status];
  const what = `${method} ${path} ${answer.status}`;
  expect(response, `${what} stands in /openapi.json`).toBeDefined();
  const [type = "", content] = Object.entries(response?.content ?? {})[0] ?? [];
  expect(answer.headers["content-type"], what).toContain(type);
  const value = type === "application/json" ? answer.json() : answer.text;
  const isValid = ajv.validate(content?.schema ?? false, value);
  expect(isValid ? "" : ajv.errorsText(), what).toBe("");
}

function pattern(template: string): RegExp {
  return new RegExp(`^${template.replace(/\{\w+\}/g, "[^/]+")}$`);
}
