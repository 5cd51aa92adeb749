/** The helper that docs/orms.md begins with. DATABASE_URL is that of the login role; run.ts sets it. */

//#region docs
export function tenantUrl(tenant: string): string {
  const url = new URL(process.env["DATABASE_URL"] ?? "");
  url.username = encodeURIComponent(`app_user.${tenant}`);
  return url.href;
}
//#endregion

/** A tenant whose name needs encoding wherever it stands in a URL. */
export const oddTenant = "zoë & co: 50%/#?@[1]";
