// The API key: for this tab only, and in no URL.

const NAME = "florence-key";
const FRAGMENT = /^#key=(.+)$/;

/** The key, "" where there is none. */
export const key = () => sessionStorage.getItem(NAME) ?? "";

export const keep = (value) => sessionStorage.setItem(NAME, value.trim());

export const forget = () => sessionStorage.removeItem(NAME);

/** Take the key out of the address, which a server never sees the fragment of. */
export function takeFromFragment() {
  const found = FRAGMENT.exec(location.hash);
  if (!found) return;
  keep(decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname + location.search);
}
