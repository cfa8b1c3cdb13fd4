import { signOut } from "./session.js";

document.getElementById("sign-out").addEventListener("click", signOut);
