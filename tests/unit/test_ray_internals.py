"""What this package takes from Ray without a promise is there still, and is what it was; another version of Ray shows here."""

import inspect
from pathlib import Path

from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray._private.state import state
from ray._raylet import InnerGcsClient
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply
from ray.experimental.internal_kv import _internal_kv_get

from alpagasus_ray.raycluster import ray_internals


def _fields(message: type) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]


def test_the_autoscalers_state_has_the_fields_that_are_read() -> None:
    assert "autoscaling_state" in _fields(GetClusterStatusReply)
    read = {"autoscaler_state_version", "infeasible_gang_resource_requests", "failed_instance_requests"}
    assert read <= _fields(AutoscalingState)
    demand, failure = (
        AutoscalingState().infeasible_gang_resource_requests.add(),
        AutoscalingState().failed_instance_requests.add(),
    )
    assert (demand.details, failure.ray_node_type_name, failure.reason) == ("", "", "")
    assert callable(InnerGcsClient.get_cluster_status)
    assert "key" in inspect.signature(_internal_kv_get).parameters
    assert ray_constants.DEBUG_AUTOSCALING_STATUS


def test_the_platforms_limits_are_asked_for_without_arguments() -> None:
    assert not inspect.signature(state.get_max_resources_from_cluster_config).parameters


def test_rays_own_count_of_this_machine_is_whole() -> None:
    here = ray_internals.resources_here()
    assert here["CPU"] >= 1
    assert here["GPU"] >= 0


def test_an_upload_is_walked_by_rays_own_rules(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in ("kept.py", "left.log", ".git/config"):
        (tmp_path / name).write_text("text")
    (tmp_path / ".rayignore").write_text("*.log")
    seen: list[str] = []
    ray_internals.visit_upload(tmp_path, lambda path: seen.append(path.name))
    assert "kept.py" in seen
    assert not {"left.log", "config"} & set(seen)
    assert ray_internals.upload_limit() == packaging.GCS_STORAGE_MAX_SIZE > 1 << 20
