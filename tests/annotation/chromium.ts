/**
 * Where a Chromium is on this machine: what the environment variable CHROMIUM says, else the first of
 * its usual names on the PATH.
 */

const names = ["chromium", "chromium-browser", "google-chrome"];

/** The path of the executable; undefined if there is none. */
export function findChromium(): string | undefined {
  const separator = Deno.build.os === "windows" ? ";" : ":";
  const folders = (Deno.env.get("PATH") ?? "").split(separator);
  const given = Deno.env.get("CHROMIUM");
  const candidates = [
    ...(given ? [given] : []),
    ...names.flatMap((name) => folders.map((folder) => `${folder}/${name}`)),
  ];
  return candidates.find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}
