"""A head whose real autoscaler starts and ends nodes, all of them on this machine."""

import json
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from ray_head import Head, free_ports

EMPTY = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
EMPTY += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")


def nodes_alive(head: Head) -> list[dict[str, Any]]:
    """The nodes of its cluster, the head among them, as the state API tells of them."""
    found = json.loads(head.get("/api/v0/nodes?detail=true"))["data"]["result"]["result"]
    return [node for node in found if node["state"] == "ALIVE"]


def autoscaled_head(
    folder: Path,
    workers: dict[str, dict[str, Any]],
    *,
    head_cpus: int,
    idle_minutes: float,
    environment: dict[str, str],
    **options: object,
) -> Head:
    """Start one with these types of nodes beside the head's. Its configuration is left in `folder`."""
    [port] = free_ports(1)
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": f"127.0.0.1:{port}",
    }
    types = {
        "ray.head.default": {"resources": {"CPU": head_cpus}, "max_workers": 0, "node_config": {}},
        **{name: {"node_config": {}, **worker} for name, worker in workers.items()},
    }
    config = {
        "cluster_name": "toy",
        "max_workers": sum(worker["max_workers"] for worker in workers.values()),
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": idle_minutes,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "auth": {},
        **{name: [] for name in EMPTY},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    fake = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    given = {"port": port, "num-cpus": head_cpus, "autoscaling-config": path, **options}
    return Head("token", environment={**fake, **environment}, **given)
