/**
 * The one error class that a stage throws. It carries a code of the catalogue, the parameters of the text that the
 * client sees, and detail and cause, which only the log sees. `session.ts` is where it is caught, counted and sent.
 */
import { catalogue, type ErrorCode, type ErrorDefinition } from "./catalogue.ts";

export interface ProxyErrorOptions {
  /** Values for the `{name}`s of the catalogue's text and hint. A client sees them: its own input or configuration. */
  readonly params?: Readonly<Record<string, string | number>>;
  /** For the log alone. */
  readonly detail?: string;
  readonly cause?: unknown;
}

export class ProxyError extends Error {
  readonly code: ErrorCode;
  /** For the log alone: never sent to a client. */
  readonly detail: string | undefined;
  readonly #params: Readonly<Record<string, string | number>>;

  constructor(code: ErrorCode, options: ProxyErrorOptions = {}) {
    const definition: ErrorDefinition = catalogue[code];
    const params = options.params ?? {};
    super(fill(definition.text, params), options.cause === undefined ? {} : { cause: options.cause });
    this.name = "ProxyError";
    this.code = code;
    this.detail = options.detail;
    this.#params = params;
  }

  get definition(): ErrorDefinition {
    return catalogue[this.code];
  }

  /** The hint that the client sees, its placeholders filled. */
  get hint(): string | undefined {
    const hint = this.definition.hint;
    return hint === undefined ? undefined : fill(hint, this.#params);
  }
}

function fill(text: string, params: Readonly<Record<string, string | number>>): string {
  return text.replace(/\{(\w+)\}/g, (placeholder, name: string) => String(params[name] ?? placeholder));
}
