// oidc-provider's issuer, certified by the OpenID Foundation: signs in whom the form names; PKCE is required.
//
//   node oidc-issuer.mjs REDIRECT_URI
//
// Says "listening PORT" once it is ready.
import { createServer } from "node:http";
import Provider from "oidc-provider";

const [redirectUri] = process.argv.slice(2);
const server = createServer((request, response) => provider.callback()(request, response));
let provider;

server.listen(0, "127.0.0.1", () => {
  const { port } = server.address();
  provider = new Provider(`http://localhost:${port}`, {
    clients: [
      {
        client_id: "marrowlens-browser",
        client_secret: "s3cret",
        redirect_uris: [redirectUri],
        post_logout_redirect_uris: [new URL("/", redirectUri).href],
        require_auth_time: true,
      },
    ],
    claims: { openid: ["sub"], profile: ["preferred_username", "roles"] },
    conformIdTokenClaims: false, // the ID token has the claims, not only the userinfo endpoint
    pkce: { required: () => true },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, roles: ["lab-doctor"] }),
    }),
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    cookies: { keys: ["only for tests"] },
    ttl: { AccessToken: 600, AuthorizationCode: 60, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
  });
  console.log(`listening ${port}`);
});
