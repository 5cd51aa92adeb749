/** What a Unix-domain socket leaves in its folder when its program is killed. */
import { connect } from "node:net";
import { lstat, unlink } from "node:fs/promises";

/**
 * A socket that a killed process left behind refuses connections; one that is in use does not, and stays. So does a file
 * that is no socket, whatever a setting says.
 */
export async function removeStale(path: string): Promise<void> {
  const status = await lstat(path).catch(() => undefined);
  if (status?.isSocket() !== true) return;
  const code = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(undefined);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code));
  });
  if (code === "ECONNREFUSED") await unlink(path);
}
