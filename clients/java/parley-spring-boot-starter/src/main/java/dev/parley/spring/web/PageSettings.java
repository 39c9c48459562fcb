package dev.parley.spring.web;

import dev.parley.v1.ReplyRequest;
import jakarta.servlet.http.HttpServletRequest;
import java.nio.file.Path;
import java.util.Objects;
import java.util.function.Function;

/**
 * Settings of the page routes. A bean of this type adds them to a Spring MVC application, under
 * {@code /api/page}.
 *
 * @param wire how the page sends: the name of the application's own routes, such as "tasks"
 * @param login how the page gets a credential: "none", "demo", "token" or "api_key"
 * @param images whether the page offers images
 * @param title title of the page
 * @param endUser the user of an authenticated request; null refuses the request as 401
 * @param replySettings model, sampling, labels and so on of an answer that is tried again, as for a new one
 * @param files folder of the page's build, which is served at "/"; null serves none
 */
public record PageSettings(
        String wire,
        String login,
        boolean images,
        String title,
        Function<HttpServletRequest, String> endUser,
        Function<HttpServletRequest, ReplyRequest> replySettings,
        Path files) {

    public PageSettings {
        Objects.requireNonNull(wire);
        Objects.requireNonNull(login);
        Objects.requireNonNull(title);
        Objects.requireNonNull(endUser);
        Objects.requireNonNull(replySettings);
    }

    /** Settings of a page that asks for a token, without images and files. The user is that of the request. */
    public static PageSettings of(String wire) {
        return new PageSettings(
                wire, "token", false, "Chat", HttpServletRequest::getRemoteUser, request -> ReplyRequest.getDefaultInstance(), null);
    }

    public PageSettings withLogin(String login) {
        return new PageSettings(wire, login, images, title, endUser, replySettings, files);
    }

    public PageSettings withImages() {
        return new PageSettings(wire, login, true, title, endUser, replySettings, files);
    }

    public PageSettings withTitle(String title) {
        return new PageSettings(wire, login, images, title, endUser, replySettings, files);
    }

    public PageSettings withEndUser(Function<HttpServletRequest, String> endUser) {
        return new PageSettings(wire, login, images, title, endUser, replySettings, files);
    }

    public PageSettings withReplySettings(Function<HttpServletRequest, ReplyRequest> replySettings) {
        return new PageSettings(wire, login, images, title, endUser, replySettings, files);
    }

    public PageSettings withFiles(Path files) {
        return new PageSettings(wire, login, images, title, endUser, replySettings, files);
    }
}
