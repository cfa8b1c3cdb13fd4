"""`GET /health/live`, `/health/ready` and `/metrics`: for orchestrators and Prometheus."""

from fastapi import APIRouter, Response

from service.api.openapi import METRICS_TEXT, problem_responses
from service.api.schemas import Health
from service.api.state import AppStateDep

router = APIRouter(tags=["operations"])


@router.get("/health/live", summary="Liveness probe")
async def live() -> Health:
    """200 while the process responds, at any load. Restart the process when it does not."""
    return Health(status="alive")


@router.get("/health/ready", summary="Readiness probe", responses=problem_responses(503))
async def ready(state: AppStateDep) -> Health:
    """200 when the model is warm, its batcher responds, and no shutdown has begun."""
    state.check_ready()
    return Health(status="ready")


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=METRICS_TEXT)
async def metrics(state: AppStateDep) -> Response:
    """Counters and histograms in Prometheus text format. They contain no picture, name or client id."""
    text, media_type = state.metrics.exposition()
    return Response(text, headers={"Content-Type": media_type})
