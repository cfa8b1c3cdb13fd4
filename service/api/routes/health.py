"""`GET /health/live`, `/health/ready` and `/metrics`: what an operator's machinery asks."""

from fastapi import APIRouter, Response

from service.api.openapi import METRICS_TEXT, problem_responses
from service.api.schemas import Health
from service.api.state import RunningService

router = APIRouter(tags=["operations"])


@router.get("/health/live", summary="Is the process alive?")
async def live() -> Health:
    """Alive as long as the process answers, whatever its load; restart it when it does not."""
    return Health(status="alive")


@router.get("/health/ready", summary="Are pictures welcome?", responses=problem_responses(503))
async def ready(service: RunningService) -> Health:
    """Ready when the model is warm and its batcher answers, and no shutdown has begun."""
    service.check_ready()
    return Health(status="ready")


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=METRICS_TEXT)
async def metrics(service: RunningService) -> Response:
    """Counters and histograms in Prometheus text format; no picture, name or id of a client is among them."""
    text, media_type = service.metrics.exposition()
    return Response(text, headers={"Content-Type": media_type})
