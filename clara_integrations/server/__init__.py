"""CLaRa over HTTP in the shapes that existing clients speak: `clara serve`, or `create_app` under any ASGI server."""

from clara_model.components.extras import naming_extra

with naming_extra("fastapi", "server"), naming_extra("prometheus_client", "server"):
    from clara_integrations.server.app import Settings, create_app

__all__ = ["Settings", "create_app"]
