"""Serves the built files of a chat page."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

_NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}
HTML_HEADERS: Final = {
    **_NO_SNIFFING,
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}
# The build puts a hash of the content into each name.
_ASSET_HEADERS: Final = {**_NO_SNIFFING, "Cache-Control": "public, max-age=31536000, immutable"}


def page_files(folder: str | Path) -> list[BaseRoute]:
    """Returns routes for a built page: `index.html` at `/` and `/c/{conversation id}`, and the files in `assets`.

    Without the folder, `/` answers 404 and says how to build the page. Other files in the folder, such as an icon, are
    served below their names, so add these routes after those of the application.
    """
    folder = Path(folder).resolve()

    async def page(_request: Request) -> Response:
        if not (folder / "index.html").is_file():
            raise HTTPException(404, "The chat page is not built: run `npm ci && npm run build` in its folder.")
        return FileResponse(folder / "index.html", media_type="text/html; charset=utf-8", headers=HTML_HEADERS)

    async def file(request: Request) -> Response:
        path = folder / request.path_params["name"]
        if path.suffix not in {".ico", ".png", ".svg", ".txt", ".webmanifest"} or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, headers=_NO_SNIFFING)

    async def asset(request: Request) -> Response:
        response = await assets.get_response(request.path_params["path"], request.scope)
        response.headers.update(_ASSET_HEADERS)
        return response

    assets = StaticFiles(directory=folder / "assets", check_dir=False)
    return [
        Route("/", page),
        Route("/c/{conversation_id}", page),
        Route("/assets/{path:path}", asset),
        Route("/{name}", file),
    ]
