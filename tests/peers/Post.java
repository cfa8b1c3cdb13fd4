/** Posts a picture as Java programs do, by java.net.http and HttpURLConnection: a line "way status" for each. */

import java.io.ByteArrayInputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

public class Post {
    private static final String BOUNDARY = "of-java";

    private final URI target;
    private final byte[] picture;

    private Post(URI target, byte[] picture) {
        this.target = target;
        this.picture = picture;
    }

    public static void main(String[] arguments) throws Exception {
        Post post = new Post(URI.create(arguments[0]), Files.readAllBytes(Path.of(arguments[1])));
        for (HttpClient.Version version : HttpClient.Version.values()) {
            post.byClient(version);
        }
        post.byConnection("chunked");
        post.byConnection("expect");
    }

    private void byClient(HttpClient.Version version) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(version).connectTimeout(Duration.ofSeconds(20)).build();
        say(version + " length", client.send(raw(HttpRequest.BodyPublishers.ofByteArray(picture)), text()));
        say(version + " stream", client.send(raw(stream()), text()));
        say(version + " form", client.send(request("multipart/form-data; boundary=" + BOUNDARY, form()), text()));
        say(version + " again", client.send(raw(HttpRequest.BodyPublishers.ofByteArray(picture)), text()));
        HttpClient another = HttpClient.newBuilder().version(version).build();
        List<CompletableFuture<HttpResponse<String>>> sent = new ArrayList<>();
        for (int at = 0; at < 20; at++) {
            HttpRequest.BodyPublisher body = at % 2 == 0 ? HttpRequest.BodyPublishers.ofByteArray(picture) : stream();
            sent.add(another.sendAsync(raw(body), text()));
        }
        for (CompletableFuture<HttpResponse<String>> each : sent) {
            say(version + " at once", each.get());
        }
    }

    private void byConnection(String way) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) target.toURL().openConnection();
        connection.setDoOutput(true);
        connection.setRequestMethod("POST");
        connection.setRequestProperty("Content-Type", "image/png");
        if (way.equals("chunked")) {
            connection.setChunkedStreamingMode(1000);
        } else {
            connection.setRequestProperty("Expect", "100-continue");
            connection.setFixedLengthStreamingMode(picture.length);
        }
        try (OutputStream body = connection.getOutputStream()) {
            body.write(picture);
        }
        System.out.println("HttpURLConnection " + way + " " + connection.getResponseCode());
    }

    private HttpRequest raw(HttpRequest.BodyPublisher body) {
        return request("image/png", body);
    }

    private HttpRequest request(String type, HttpRequest.BodyPublisher body) {
        HttpRequest.Builder request = HttpRequest.newBuilder(target).timeout(Duration.ofSeconds(60));
        return request.header("Content-Type", type).POST(body).build();
    }

    private HttpRequest.BodyPublisher stream() {
        return HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(picture));
    }

    private HttpRequest.BodyPublisher form() {
        String head = "--" + BOUNDARY + "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"cell.png\"\r\n"
            + "Content-Type: image/png\r\n\r\n";
        byte[] tail = ("\r\n--" + BOUNDARY + "--\r\n").getBytes();
        return HttpRequest.BodyPublishers.ofByteArrays(List.of(head.getBytes(), picture, tail));
    }

    private static HttpResponse.BodyHandler<String> text() {
        return HttpResponse.BodyHandlers.ofString();
    }

    private static void say(String way, HttpResponse<String> answer) {
        System.out.println(way + " " + answer.statusCode());
    }
}
