"""The files that start clusters are valid for Ray and KubeRay, agree with each other, are closed to strangers and hold no keys.

Nothing is started here: what a cluster does with them only a cloud can show.
"""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray._private.label_utils import validate_node_label_syntax
from ray.autoscaler._private.util import prepare_config, validate_config

from alpagasus_ray.raycluster import placement
from toy_runs import ROOT

CLUSTER = ROOT / "cluster"
CLOUDS = ("aws.yaml", "gcp.yaml")
MANIFESTS = ("kuberay/raycluster.yaml", "kuberay/rayjob-score.yaml", "kuberay/rayjob-experiment.yaml")
LAUNCHERS = (*CLOUDS, *MANIFESTS, "Dockerfile", "local.sh")
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
CRD = json.loads((ROOT / "tests/data/kuberay-crd.json").read_text())
POOLS = {placement.CPU, placement.GPU, placement.TRAIN}
KEYS = re.compile(
    r"sk-[\w-]{16,}|AKIA\w{16}|AIza[\w-]{30,}|gh[pousr]_\w{20,}|hf_\w{20,}|PRIVATE KEY"
    r"|\b[0-9a-f]{32,}\b|[A-Za-z0-9+/]{40,}={0,2}(?![\w/.-])"
)
CLOUD_FIELDS = (
    "idle_timeout_minutes head_node_type file_mounts pull_before_run ssh_user labels max_workers worker_image".split()
)
CLUSTER_FIELDS = """
authOptions mode enableInTreeAutoscaling version rayStartParams serviceType workerGroupSpecs groupName minReplicas labels
template containers image resources limits env valueFrom secretKeyRef optional volumeMounts mountPath volumes secretName
defaultMode tolerations effect nodeSelector securityContext fsGroup restartPolicy serviceAccountName
""".split()
JOB_FIELDS = "entrypoint backoffLimit rayClusterSpec shutdownAfterJobFinishes submissionMode ttlSecondsAfterFinished".split()
Config = dict[str, Any]


def load(name: str) -> Config:
    loaded: Config = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def check_cloud(config: Config) -> Config:
    """What `ray up` checks before it asks the cloud for anything; the configuration it goes on with."""
    prepared: Config = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def problems(manifest: Config) -> list[str]:
    """What a Kubernetes with KubeRay's CRD says against a manifest."""
    checker = jsonschema.Draft202012Validator({**CRD, "$ref": f"#/$defs/{manifest['kind']}"})
    return [error.message for error in checker.iter_errors(manifest)]


def cluster_spec(name: str) -> Config:
    spec: Config = load(name)["spec"]
    inner: Config = spec.get("rayClusterSpec", spec)
    return inner


def workers(name: str) -> dict[str, Config]:
    """The pools of a cloud's file or of a manifest, by name."""
    if name in CLOUDS:
        config = load(name)
        return {pool: node for pool, node in config["available_node_types"].items() if pool != config["head_node_type"]}
    return {group["groupName"]: group for group in cluster_spec(name)["workerGroupSpecs"]}


def pod_specs(name: str) -> list[Config]:
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def containers(name: str) -> list[Config]:
    return [container for pod in pod_specs(name) for container in pod["containers"]]


def with_typo(value: Any, field: str) -> Any:
    """A copy in which the first field of that name, at any depth, is misspelt."""
    if isinstance(value, dict) and field in value:
        return {name + "x" if name == field else name: inner for name, inner in value.items()}
    places = value.items() if isinstance(value, dict) else enumerate(value)
    holder = next(place for place, inner in places if f"'{field}':" in repr(inner))
    changed = copy.copy(value)
    changed[holder] = with_typo(value[holder], field)
    return changed


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_up_takes_the_file(name: str) -> None:
    check_cloud(load(name))


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("field", CLOUD_FIELDS)
def test_ray_up_refuses_a_misspelt_field(name: str, field: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=f"{field}x"):
        check_cloud(with_typo(load(name), field))


@pytest.mark.parametrize("name", CLOUDS)
def test_nothing_of_rays_defaults_is_installed_over_the_image(name: str) -> None:
    prepared = check_cloud(load(name))
    commands = [command for key, value in prepared.items() if key.endswith("_commands") for command in value]
    installed = [command for command in commands if "install" in command]
    assert all(re.search(r"==\d", command) and "http" not in command for command in installed), installed


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_takes_the_manifest(name: str) -> None:
    assert problems(load(name)) == []


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("field", CLUSTER_FIELDS)
def test_kuberay_refuses_a_misspelt_field(name: str, field: str) -> None:
    assert any(f"'{field}x' was unexpected" in problem for problem in problems(with_typo(load(name), field)))


@pytest.mark.parametrize("name", MANIFESTS[1:])
@pytest.mark.parametrize("field", JOB_FIELDS)
def test_kuberay_refuses_a_job_with_a_misspelt_field(name: str, field: str) -> None:
    assert any(f"'{field}x' was unexpected" in problem for problem in problems(with_typo(load(name), field)))


def test_kuberay_refuses_a_value_of_another_type() -> None:
    manifest = load("kuberay/raycluster.yaml")
    manifest["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    manifest["spec"]["authOptions"]["mode"] = "tokens"
    assert sorted(problems(manifest)) == ["'tokens' is not one of ['disabled', 'token']", "0 is not of type 'string'"]


@pytest.mark.parametrize("name", [*CLOUDS, *MANIFESTS])
def test_pools_are_labelled_alike_everywhere(name: str) -> None:
    pools = workers(name)
    assert set(pools) <= POOLS
    assert name == "kuberay/rayjob-score.yaml" or set(pools) == POOLS
    for pool, described in pools.items():
        assert described["labels"] == {placement.POOL: pool}
        validate_node_label_syntax(described["labels"])
    head = load(name)["available_node_types"]["head"] if name in CLOUDS else cluster_spec(name)["headGroupSpec"]
    assert head["labels"] == {placement.POOL: placement.HEAD}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pool_is_the_same_in_all_manifests(name: str) -> None:
    standing = workers("kuberay/raycluster.yaml")
    assert all(described == standing[pool] for pool, described in workers(name).items())
    assert cluster_spec(name)["headGroupSpec"] == cluster_spec("kuberay/raycluster.yaml")["headGroupSpec"]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_clouds_head_runs_no_work_and_all_pools_come_from_nothing(name: str) -> None:
    config = check_cloud(load(name))
    nodes = config["available_node_types"]
    assert nodes[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers(name).values())
    assert config["max_workers"] == sum(node["max_workers"] for node in workers(name).values())
    assert config["idle_timeout_minutes"] > 0
    assert {pool for pool, node in nodes.items() if node["resources"].get("GPU")} == POOLS - {"cpu"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifests_head_runs_no_work_and_all_pools_come_from_nothing(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert all(
        group["minReplicas"] == 0 < group["maxReplicas"] and not group.get("replicas") for group in workers(name).values()
    )


def test_only_judges_are_on_spot_nodes() -> None:
    def is_spot(pool: Config) -> bool:
        return bool(re.search("spot", repr({**pool, "groupName": ""}), re.IGNORECASE))

    for name in (*CLOUDS, *MANIFESTS):
        assert {pool for pool, described in workers(name).items() if is_spot(described)} == {"gpu-judge"}, name


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_token_is_asked_for_everywhere(name: str) -> None:
    if name in MANIFESTS:
        assert cluster_spec(name)["authOptions"]["mode"] == "token"
    elif name in CLOUDS:
        options = load(name)["docker"]["run_options"]
        assert "--env RAY_AUTH_MODE=token" in options
        assert any(option.startswith("--env RAY_AUTH_TOKEN_PATH=/") for option in options)
    else:
        assert "RAY_AUTH_MODE=token" in (CLUSTER / name).read_text()
    assert "RAY_AUTH_MODE=disabled" not in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", [*CLOUDS, "local.sh"])
def test_the_dashboard_listens_on_loopback(name: str) -> None:
    assert re.findall(r"--dashboard-host=(\S+)", (CLUSTER / name).read_text()) == ["127.0.0.1"]
    assert "0.0.0.0" not in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_dashboard_is_reached_from_inside_kubernetes_only(name: str) -> None:
    head = cluster_spec(name)["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_anything_like_a_key(path: Path) -> None:
    assert not KEYS.findall(path.read_text())


@pytest.mark.parametrize("name", MANIFESTS)
def test_secrets_come_by_reference(name: str) -> None:
    variables = [variable for container in containers(name) for variable in container["env"]]
    secret = [one for one in variables if re.search("KEY|TOKEN|SECRET|PASSWORD", one["name"])]
    assert secret
    for one in secret:
        assert "valueFrom" in one or (one["name"].endswith(("_FILE", "_PATH")) and one["value"].startswith("/")), one


@pytest.mark.parametrize("name", CLOUDS)
def test_keys_are_files_in_the_folder_that_is_copied(name: str) -> None:
    config = load(name)
    options = config["docker"]["run_options"]
    paths = [option.partition("=")[2] for option in options if re.search(r"KEY_FILE=|TOKEN_PATH=", option)]
    assert len(paths) == 2
    assert all(str(Path(path).parent) in config["file_mounts"] for path in paths)


def test_every_image_is_a_target_of_the_dockerfile() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE))
    named = {container["image"] for name in MANIFESTS for container in containers(name)}
    for name in CLOUDS:
        named |= {
            load(name)["docker"]["image"],
            *(pool["docker"]["worker_image"] for pool in workers(name).values() if "docker" in pool),
        }
    assert named == {"registry.example.com/alpagasus-ray:cpu", "registry.example.com/alpagasus-ray:gpu"}
    assert {image.rpartition(":")[2] for image in named} <= targets
    assert all(f"--tag {image} " in text for image in named)


@pytest.mark.parametrize("name", [*CLOUDS, *MANIFESTS])
def test_pools_with_gpus_have_the_image_for_gpus(name: str) -> None:
    for pool, described in workers(name).items():
        image = described["docker"]["worker_image"] if name in CLOUDS and "docker" in described else repr(described)
        assert (":gpu" in image) == pool.startswith("gpu"), pool


def test_the_images_hold_no_more_than_is_named() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert {"alpagasus_ray", "jobs", "recipes", "requirements.lock", "requirements-gpu.lock"} <= set(sources)
    assert all((ROOT / source).exists() and source != "." for source in sources)


def test_the_images_do_not_run_as_root() -> None:
    stages = re.split(r"^FROM ", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    for stage in stages[-2:]:
        assert re.findall(r"^USER (\S+)", stage, re.MULTILINE) == ["1000"]
    assert "--uid 1000" in stages[-3]
    for name in MANIFESTS:
        assert all(pod["securityContext"]["runAsUser"] == 1000 for pod in pod_specs(name))


def test_versions_are_those_of_the_package() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    ray = re.search(r"^ray==(\S+)", lock, re.MULTILINE)
    torch = re.search(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ray
    assert torch
    assert {cluster_spec(name)["rayVersion"] for name in MANIFESTS} == {ray[1]}
    assert f"ARG TORCH={torch[1]}\n" in (CLUSTER / "Dockerfile").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_job_and_recipe_that_is_named_exists(path: Path) -> None:
    named = re.findall(
        r"(?<!my-bucket/)\b(?:jobs/\w+\.py|recipes/[\w.-]+\.yaml|(?:cluster|docs)/[\w/-]+\.\w+)", path.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", MANIFESTS[1:])
def test_jobs_are_tried_again_on_storage_that_outlives_their_cluster(name: str) -> None:
    spec = load(name)["spec"]
    assert re.fullmatch(r"python jobs/\w+\.py --recipe (recipes|s3:/)/\S+ --run s3://\S+( --set \S+)*", spec["entrypoint"])
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_the_local_script_is_bash() -> None:
    done = subprocess.run(["bash", "-n", str(CLUSTER / "local.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_local_script_ends_only_a_process_that_it_started(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "head.pid").write_text(f"{stranger.pid}\nThu Jan  1 00:00:00 1970\n")
        command = [str(CLUSTER / "local.sh"), "stop"]
        subprocess.run(
            command, env={"ALPAGASUS_LOCAL": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, check=True
        )
        assert stranger.poll() is None
        assert not (tmp_path / "head.pid").exists()
    finally:
        stranger.kill()
        stranger.wait()
