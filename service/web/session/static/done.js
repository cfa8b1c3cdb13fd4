// Tells the pages of this browser that the session is new, so that they repeat what was refused.
new BroadcastChannel("marrowlens-session").postMessage("signed-in");
window.close();
