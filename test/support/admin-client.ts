/**
 * Asks the HTTP API as a program does, with any header that a test wants: `fetch` would keep Host and Origin to itself.
 * Each request has a connection of its own.
 */
import { once } from "node:events";
import { request as requestHttp, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { request as requestHttps } from "node:https";
import { text } from "node:stream/consumers";
import type { LogLine, ProxyProcess } from "./proxy-process.ts";

/** Where the API is: as the program logs it, or as the library has it. */
export type AdminPlace = { readonly port: number; readonly ca?: string } | { readonly path: string };

export interface Ask {
  readonly method?: string;
  readonly token?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The text as JSON. */
  readonly json: () => unknown;
}

export async function ask(
  place: AdminPlace,
  path: string,
  { method = "GET", token, headers, body }: Ask = {},
): Promise<Answer> {
  const options = {
    ...("path" in place ? { socketPath: place.path } : { host: "127.0.0.1", port: place.port }),
    ...("ca" in place && { ca: place.ca }),
    method,
    path,
    agent: false,
    headers: { ...(token !== undefined && { authorization: `Bearer ${token}` }), ...headers },
  } as const;
  const request = "ca" in place ? requestHttps(options) : requestHttp(options);
  request.end(body);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const answer = await text(response);
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text: answer,
    json: () => JSON.parse(answer) as unknown,
  };
}

/** Where the program says that its API is open. */
export async function adminOf(proxy: ProxyProcess): Promise<{ readonly port: number }> {
  const line: LogLine = await proxy.waitForLog(({ msg, port }) => msg === "the HTTP API is open" && port !== undefined);
  return { port: Number(line["port"]) };
}
