// The last page of a sign-in in a second window.
import { announceSession } from "./session.js";

announceSession();
window.close();
