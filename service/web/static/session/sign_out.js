/** The button that ends the session. */

import { byId } from "../page/element.js";
import { signOut } from "./session.js";

byId("sign-out")?.addEventListener("click", signOut);
