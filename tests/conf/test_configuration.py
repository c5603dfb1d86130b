"""Every option of every group composes and builds; every mistake is told with key, value, what is allowed and the cure,
before a run folder exists."""

import json
import re
import shutil

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException

from dataecho.compose import compose_input, compose_training, compose_workload
from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.moved import current_name
from dataecho.training.contracts import NoDisplay
from dataecho_tasks.coco_ssd.windows import crop, crop_in_one_draw
from dataecho_tasks.shared.images import pixels, resized_crops
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1")


def options(group):
    return sorted(path.stem for path in (PROJECT / "conf" / group).glob("*.yaml"))


GROUPS = ("task", "backend", "pipeline", "optimizer", "schedule")
NEEDED = {"fresh": ["budget.fresh=500"], "steps": ["budget.steps=5"], "seconds": ["budget.seconds=1.5"]}


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_option_builds(group, option):
    # TensorFlow takes its threads once in a process, and here is one already.
    threads = ["backend.compute_threads=null"] if group == "backend" else []
    workload = compose_workload(config(*QUIET, f"{group}={option}", *threads))
    assert workload.task.name == (option if group == "task" else "digits")


@pytest.mark.parametrize(
    ("task", "old"),
    [
        ("lm1b_transformer", "tasks.lm1b_transformer.mini.mini_sentences"),
        ("commoncrawl_transformer", "tasks.commoncrawl_transformer.mini.mini_pages"),
    ],
)
def test_former_names_of_miniatures_still_work(task, old):
    today = config(f"task={task}")
    assert config(f"task={task}", f"task/{task}_data=mini") == today
    assert current_name(old) == today["task"]["train"]["_target_"]


@pytest.mark.parametrize(("backend", "hands_on"), [("torch", False), ("tensorflow", True)])
def test_batches_are_handed_on_to_those_who_copy_them_anyway(backend, hands_on):
    workload = compose_workload(config(*QUIET[:-1], f"backend={backend}"))
    assert workload.executor.hands_on is hands_on


@pytest.mark.parametrize("option", options("budget"))
def test_every_budget_builds(option, tmp_path):
    run = compose_training(
        config(*QUIET, f"budget={option}", *NEEDED.get(option, [])), folder=tmp_path / "run", project=PROJECT
    )
    with run.new_trainer(NoDisplay())._feed:
        pass


@pytest.mark.parametrize("option", options("tracking"))
def test_every_tracker_builds(option):
    assert compose_workload(config("accelerator=cpu", f"tracking={option}")).tracker.where in ("", "make dashboard")


@pytest.mark.parametrize("option", options("accelerator"))
def test_every_accelerator_builds_where_it_is(option):
    import torch

    there = {"cpu": True, "auto": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    node = config("tracking=none", f"accelerator={option}")
    if there.get(option):
        assert compose_workload(node).backend.identity["backend.device"] in ("cpu", "cuda", "mps")
    else:
        with pytest.raises(
            SettingError, match=f"accelerator={option} .*(what this machine has: cpu|auto, cpu, cuda, mps)"
        ):
            compose_workload(node)


ECHO_OVERRIDES = {"example": ["task.max_shift=1"], "stage": ["echo.after=decode"]}


@pytest.mark.parametrize("option", options("echo"))
def test_every_echo_trains_two_steps(option, tmp_path):
    overrides = [f"echo={option}", *ECHO_OVERRIDES.get(option, []), "budget=steps", "budget.steps=2"]
    if option != "none":
        overrides.append("factor=2.5")
    if option == "example":  # digits augments
        with pytest.raises(SettingError, match="echo=example .*before_augmentation or after_augmentation"):
            run_mode(config(*QUIET, *overrides, f"run_dir={tmp_path / 'run'}"), folder=None, project=PROJECT)
        return
    run_mode(config(*QUIET, *overrides, f"run_dir={tmp_path / 'run'}"), folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["delivered_examples"] == 128
    assert summary["fresh_examples"] <= 128


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_trains_two_steps(option, tmp_path):
    overrides = [f"experiment={option}", "budget=steps", "budget.steps=2", f"run_dir={tmp_path / 'run'}"]
    run_mode(config(*QUIET, *overrides), folder=None, project=PROJECT)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2
    first = (PROJECT / "conf" / "experiment" / f"{option}.yaml").read_text().splitlines()[0:4]
    assert f"python train.py experiment={option}" in "\n".join(first)


#: Of the paper (section 2): optimizer, kind of schedule with its end or warm-up, target, steps of a batch. Ours: weight
#: decay.
PAPER = {
    "cifar10_resnet32": ("nesterov", "LinearDecay", ("final_fraction", 0.01), 0.0001, 0.91, 150_000, 128),
    "imagenet_resnet50": ("nesterov", "LinearDecay", ("final_fraction", 0.001), 0.0001, 0.75, 110_000, 1024),
    "coco_ssd": ("momentum", "WarmUpDrops", ("warm_up", 3.5 * 118_287 / 7_680_000), 0.0005, 0.24, 30_000, 256),
    "lm1b_transformer": ("nesterov", "ConstantSchedule", None, 0.0, 3.9, 20_000, 1024),
    "commoncrawl_transformer": ("nesterov", "ConstantSchedule", None, 0.0, 3.9, 60_000, 1024),
}
MINIATURES = ("miniature", "mini")  # mini: the former name
FULL_SIZE = [(task, option) for task in PAPER for option in options(f"task/{task}_data") if option not in MINIATURES]


def full_size(task, option, *overrides):
    return config(f"task={task}", f"task/{task}_data={option}", "task.train=null", "task.eval=null", *overrides)


def of_optimizer_and_schedule(node):
    return {name: node[name] for name in ("optimizer", "schedule")}


@pytest.mark.parametrize("sweep", ["none", "paper"])
@pytest.mark.parametrize(("task", "option"), FULL_SIZE)
def test_data_of_full_size_choose_all_that_the_paper_has_for_them(task, option, sweep):
    node = full_size(task, option, f"sweep={sweep}")
    name, schedule, number, weight_decay, target, num_steps, batch_size = PAPER[task]
    optimizer = node["optimizer"]
    assert (optimizer["name"], optimizer["momentum"], optimizer["weight_decay"]) == (name, 0.9, weight_decay)
    assert optimizer["learning_rate"] == node["task"]["learning_rate"]
    assert node["schedule"]["_target_"] == f"dataecho.training.schedule.{schedule}"
    if number is not None:
        assert node["schedule"][number[0]] == pytest.approx(number[1], rel=1e-3)
    assert (node["task"]["target"], node["task"]["batch_size"]) == (target, batch_size)
    assert node["budget"]["fresh"] == num_steps * batch_size
    assert of_optimizer_and_schedule(config(f"experiment={task}")) == {
        "optimizer": {**optimizer, "learning_rate": config(f"task={task}")["task"]["learning_rate"]},
        "schedule": node["schedule"],
    }


def test_what_is_typed_wins_over_what_the_data_choose():
    node = full_size("coco_ssd", "official", "optimizer=adamw", "optimizer.weight_decay=0.1", "schedule=constant")
    assert (node["optimizer"]["name"], node["optimizer"]["weight_decay"]) == ("adamw", 0.1)
    assert node["schedule"] == {"_target_": "dataecho.training.schedule.ConstantSchedule"}
    assert of_optimizer_and_schedule(full_size("coco_ssd", "official", "paper=none", "task.learning_rate=0.15")) == (
        of_optimizer_and_schedule(config("task.learning_rate=0.15"))
    )


@pytest.mark.parametrize(
    ("task", "rule", "published"),
    [("imagenet_resnet50", pixels.random_crop, pixels.published_crop), ("coco_ssd", crop_in_one_draw, crop)],
)
def test_without_a_rule_for_crops_they_are_those_of_older_checkpoints(tmp_path, task, rule, published):
    few = [
        f"task.{split}.{name}" for split in ("train", "eval") for name in ("num_examples=8", f"cache_dir={tmp_path}")
    ]
    for overrides, expected in ((["~task.crop_rule"], rule), ([], rule), (["task.crop_rule=published"], published)):
        stages = compose_input(config(f"task={task}", *few, *overrides)).task.stages()
        (function,) = [stage.function for stage in stages if stage.name == "crop"]
        found = function.func if task == "coco_ssd" else resized_crops.CROPS[function.keywords["rule"]]
        assert found is expected


@pytest.mark.parametrize("option", options("paper"))
def test_every_optimizer_and_schedule_of_the_paper_builds(option):
    compose_workload(config(*QUIET, f"paper={option}"))


# (overrides, key=value, what is allowed, the cure)
MISTAKES = {
    "unknown key": (["+fcator=2"], "fcator=2", "factor", "Did you mean factor?"),
    "unknown key in a group": (["+echo.afer=read"], "echo.afer=read", "after, name", "Did you mean echo.after?"),
    "unknown key of a target": (
        ["+task.batch_sise=3"],
        "task.batch_sise=3",
        "batch_size",
        "Did you mean task.batch_size?",
    ),
    "unknown key of a tracker": (["+tracking.uri=x"], "tracking.uri=x", "the keys", "Remove it"),
    "unknown model key": (["+task.models.torch.widht=3"], "task.models.torch.widht=3", "channels", "Remove it"),
    "misspelt target": (["~task._target_", "+task._targte_=a.b"], "task._targte_=a.b", "_target_", "Did you mean"),
    "target of another kind": (
        ["schedule._target_=dataecho.training.budget.Budget"],
        "schedule._target_=dataecho.training.budget.Budget",
        "derived from dataecho.training.schedule.Schedule",
        "Choose schedule=<name>",
    ),
    "target that is not there": (
        ["schedule._target_=no.such.Thing"],
        "schedule._target_=no.such.Thing",
        "imported",
        "No module",
    ),
    "factor below one": (["echo=batch", "factor=0.5"], "factor=0.5", "any real number >= 1", "without echo"),
    "factor not a number": (["echo=batch", "factor=nan"], "factor=nan", "any real number >= 1", "without echo"),
    "factor infinite": (["echo=batch", "factor=inf"], "factor=inf", "any real number >= 1", "without echo"),
    "factor text": (
        ["echo=batch", "factor=four"],
        "factor=four",
        "a number, auto, or a recorded history",
        "echo=before_augmentation factor=4",
    ),
    "auto without echo": (["factor=auto"], "factor=auto", "nothing or 1 with echo=none", "echo=before_augmentation"),
    "a history that is not there": (
        ["echo=batch", "factor=nowhere.json"],
        "factor=nowhere.json",
        "auto, or the factor_history.json of a run with factor=auto",
        "it cannot be read",
    ),
    "a limit without auto": (
        ["echo=batch", "factor=2", "max_factor=4"],
        "max_factor=4",
        "nothing without factor=auto",
        "Leave it out",
    ),
    "a limit below one": (
        ["echo=batch", "factor=auto", "max_factor=0.5"],
        "max_factor=0.5",
        "null or numbers >= 1",
        "Change max_factor",
    ),
    "echo without factor": (["echo=batch"], "factor=None", "any real number >= 1", "factor=2"),
    "factor without echo": (["factor=4"], "factor=4", "nothing or 1 with echo=none", "echo=before_augmentation"),
    "echo after no stage": (
        ["echo=stage", "factor=2", "echo.after=colour"],
        "echo.after=colour",
        "decode, shift",
        "Name a stage",
    ),
    "item echo with a batch buffer": (
        ["echo=before_augmentation", "factor=2", "echo.shuffle_buffer=3"],
        "echo.shuffle_buffer=3",
        "0 with an echo after 'decode'",
        "task.shuffle_buffer",
    ),
    "negative batch buffer": (
        ["echo=batch", "factor=2", "echo.shuffle_buffer=-1"],
        "echo.shuffle_buffer=-1",
        "whole numbers >= 0",
        "Change",
    ),
    "batch over buffer": (["task.shuffle_buffer=32"], "batch_size=64", "shuffle buffer, 32", "shuffle_buffer=0"),
    "batch over source": (
        ["task.batch_size=1400", "task.shuffle_buffer=1400", "task.eval_interval=1400"],
        "batch_size=1400",
        "1297 examples of the source",
        "more data",
    ),
    "no batch": (["task.batch_size=0"], "task.batch_size=0", ">= 1", "Set task.batch_size"),
    "text for a number": (["task.batch_size=many"], "task.batch_size=many", "integer", "task.batch_size"),
    "interval under a batch": (
        ["task.eval_interval=63"],
        "task.eval_interval=63",
        "at least one batch, 64",
        "Evaluate less",
    ),
    "no budget": (["budget=fresh", "budget.fresh=0"], "budget.fresh=0", "numbers > 0", "something to spend"),
    "negative budget": (["budget=steps", "budget.steps=-5"], "budget.steps=-5", "numbers > 0", "something to spend"),
    "budget under a batch": (["budget=fresh", "budget.fresh=63"], "budget.fresh=63", "at least one batch", "Raise"),
    "two units": (["budget.steps=5"], "budget=fresh=20000, steps=5", "exactly one of", "budget=steps budget.steps"),
    "seconds with a schedule": (
        ["schedule=linear", "budget=seconds", "budget.seconds=3"],
        "budget.seconds=3",
        "not constant",
        "schedule=constant",
    ),
    "negative rate": (["optimizer.learning_rate=-1"], "optimizer.learning_rate=-1", "numbers > 0", "default"),
    "unknown optimizer": (
        ["optimizer.name=sgd"],
        "optimizer.name=sgd",
        "nesterov, momentum, adamw",
        "optimizer=nesterov",
    ),
    "nesterov without momentum": (["optimizer.momentum=0"], "optimizer.momentum=0", "(0, 1)", "optimizer=momentum"),
    "unknown precision": (["accelerator.precision=fp8"], "accelerator.precision=fp8", "32, bf16", "precision=32"),
    "unknown accelerator": (["accelerator.name=tpu"], "accelerator=tpu", "auto, cpu, cuda, mps", "accelerator=auto"),
    "negative seed": (["seed=-1"], "seed=-1", "whole numbers >= 0", "0 is the default"),
    "unknown mode": (["mode=trian"], "mode=trian", "train, preview, diagnose", "train is the default"),
    "a number for a choice": (["mode=1"], "mode=1", "train, preview, diagnose", "train is the default"),
    "no threads": (["pipeline.num_threads=-1"], "pipeline.num_threads=-1", "whole numbers >= 0", "2 is the default"),
    "backend without a model": (["backend.name=jax"], "backend=jax", "torch", "task=digits"),
    "checkpoint while training": (["checkpoint=runs/x"], "checkpoint=runs/x", "mode=train", "mode=evaluate"),
    "runs while training": (["runs=[a]"], "runs=['a']", "mode=train", "mode=report"),
    "evaluating nothing": (["mode=evaluate"], "checkpoint=None", "path of a checkpoint", "mode=evaluate checkpoint="),
    "evaluating what is not there": (
        ["mode=evaluate", "checkpoint=nowhere"],
        f"checkpoint={PROJECT}/nowhere",
        "checkpoints/",
        "run folder",
    ),
    "echoing while diagnosing": (
        ["mode=diagnose", "echo=batch", "factor=2"],
        "echo=batch",
        "none with mode=diagnose",
        "says where to echo",
    ),
    "no time to diagnose": (
        ["mode=diagnose", "diagnose.seconds=0"],
        "diagnose.seconds=0",
        "seconds > 0",
        "Change diagnose.seconds",
    ),
    "reporting nothing": (["mode=report"], "runs=[]", "folders of finished runs", "mode=report"),
    "syncing nothing": (["mode=sync"], "resume=None", "path of a run folder", "mode=sync resume="),
    "a relative database": (
        ["tracking=mlflow", "tracking.tracking_uri=sqlite:///mlflow.db"],
        "tracking.tracking_uri=sqlite:///mlflow.db",
        "",
        "",
    ),
    "an empty path": (["run_dir=''"], "run_dir=", "null or text", "leave it out"),
    "a setting of another optimizer": (["optimizer.beta_2=0.5"], "optimizer.beta_2=0.5", "optimizer=nesterov", "adamw"),
    "target that is no number": (["task.target=nan"], "task.target=nan", "finite", "task.target"),
    "function as a target": (
        ["schedule._target_=os.getcwd"],
        "schedule._target_=os.getcwd",
        "a class derived",
        "Choose",
    ),
    "bad held-out share": (["task.num_held_out=0"], "task.num_held_out=0", "1 to 1796", "500"),
    "bad shift": (["task.max_shift=9"], "task.max_shift=9", "0 to 3", "default"),
    "no channels": (
        ["task.models.torch.channels=[16]"],
        "task.models.torch.channels=[16]",
        "two whole numbers",
        "[16, 32]",
    ),
}


@pytest.mark.parametrize(("overrides", "given", "allowed", "cure"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_key_value_allowed_and_cure(overrides, given, allowed, cure, tmp_path):
    folder = tmp_path / "run"
    own_folder = [] if any(item.startswith("mode=report") for item in overrides) else [f"run_dir={folder}"]
    with pytest.raises(SettingError) as raised:
        run_mode(config(*QUIET, *own_folder, *overrides), folder=None, project=PROJECT)
    message = str(raised.value)
    start, _, rest = message.partition(" cannot be used. Allowed: ")
    assert start == given
    told, _, told_cure = rest.partition(". ")
    assert re.search(re.escape(allowed), rest) and told
    assert cure in rest and (told_cure or not cure)
    assert not folder.exists()


def test_unknown_groups_and_options_are_refused_by_hydra():
    with pytest.raises(ConfigCompositionException, match="Could not override 'ehco'"):
        config("ehco=batch")
    with pytest.raises(MissingConfigException, match="batch\n"):
        config("echo=bacth")


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    node = config(*QUIET, f"run_dir={tmp_path / 'file' / 'run'}")
    with pytest.raises(SettingError, match="run_dir=.*a folder that can be written"):
        run_mode(node, folder=None, project=PROJECT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    overrides = ("budget=fresh", "budget.fresh=600", "stop_at_target=false")
    run_mode(config(*QUIET, *overrides, f"run_dir={folder}"), folder=None, project=PROJECT)
    return folder, overrides


def test_a_second_run_in_the_same_folder_is_refused(finished):
    folder, overrides = finished
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(SettingError, match="run_dir=.*a folder without a run.*resume=auto"):
        run_mode(config(*QUIET, *overrides, f"run_dir={folder}"), folder=None, project=PROJECT)
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("seed=1", "seed=1 .*Allowed: 0,"),
        ("task.batch_size=32", "task.batch_size=32 .*Allowed: 64,"),
        ("task.shuffle_buffer=512", "task.shuffle_buffer=512 .*Allowed: 1024,"),
        ("optimizer.learning_rate=0.3", "optimizer.learning_rate=0.3 .*Allowed: 0.1,"),
        ("optimizer=adamw", "optimizer.(learning_rate|name)="),
        ("task.models.torch.channels=[8,8]", r"task.models.torch.channels=\[8, 8\] .*Allowed: \[16, 32\],"),
        ("backend.compute_threads=2", "backend.compute_threads=2 .*Allowed: 1,"),
    ],
)
def test_resuming_under_other_settings_is_refused_with_both_values(finished, changed, named):
    folder, overrides = finished
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(SettingError, match=named):
        run_mode(config(*QUIET, *overrides, f"resume={folder}", changed), folder=None, project=PROJECT)
    with pytest.raises(SettingError, match="(echo|factor)"):
        run_mode(config(*QUIET, *overrides, f"resume={folder}", "echo=batch", "factor=2"), folder=None, project=PROJECT)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(finished):
    folder, overrides = finished
    before = json.loads((folder / "summary.json").read_text())
    run_mode(config(*QUIET, *overrides, f"resume={folder}"), folder=None, project=PROJECT)
    after = json.loads((folder / "summary.json").read_text())
    for name in ("fresh_examples", "steps", "accuracy", "train_loss", "entered_examples", "delivered_examples"):
        assert after[name] == before[name]


def test_a_truncated_checkpoint_is_refused(finished, tmp_path):
    folder, overrides = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    newest = sorted((copy / "checkpoints").iterdir())[-1]
    (newest / "arrays.safetensors").write_bytes((newest / "arrays.safetensors").read_bytes()[:-10])
    with pytest.raises(SettingError, match="checkpoint=.*truncated or was altered"):
        run_mode(config(*QUIET, *overrides, f"resume={newest}"), folder=None, project=PROJECT)


def test_evaluation_of_a_checkpoint_gives_the_metric_of_its_mark(finished, capsys):
    folder, overrides = finished
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    run_mode(config(*QUIET, *overrides, "mode=evaluate", f"checkpoint={newest}"), folder=None, project=PROJECT)
    accuracy = json.loads((folder / "summary.json").read_text())["accuracy"]
    assert f"accuracy {accuracy:.4f}  (target 0.97)" in capsys.readouterr().out
    run_mode(config(*QUIET, *overrides, "mode=evaluate", f"checkpoint={folder}"), folder=None, project=PROJECT)
    best = max(json.loads(line)["metrics"]["accuracy"] for line in (folder / "metrics.jsonl").read_text().splitlines())
    assert f"accuracy {best:.4f}  (target 0.97)" in capsys.readouterr().out


def test_a_report_compares_finished_runs(finished, tmp_path):
    folder, _ = finished
    run_mode(
        config(*QUIET, "mode=report", f"runs=[{folder.parent}/*]", f"run_dir={tmp_path / 'report'}"),
        folder=None,
        project=PROJECT,
    )
    assert "| none | never |" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_with_a_server_that_is_down_trains_and_keeps_its_record(tmp_path):
    node = config(
        "display=none",
        "budget=steps",
        "budget.steps=2",
        "tracking.tracking_uri=http://127.0.0.1:9",
        "tracking.start_timeout=0.5",
        "tracking.finish_timeout=0.5",
        f"run_dir={tmp_path / 'run'}",
    )
    run_mode(node, folder=None, project=PROJECT)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / "run.lock"),
        pytest.raises(SettingError, match="run_dir=.*no other process is training in"),
    ):
        run_mode(config(*QUIET, f"run_dir={tmp_path / 'run'}"), folder=None, project=PROJECT)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_evaluating_on_another_split_than_was_trained_is_refused(finished):
    folder, _ = finished
    with pytest.raises(SettingError, match="may have been trained on"):
        run_mode(
            config(*QUIET, "mode=evaluate", f"checkpoint={folder}", "task.num_held_out=400"),
            folder=None,
            project=PROJECT,
        )


def test_a_report_leaves_out_what_is_not_finished_and_tells_runs_apart(finished, tmp_path, capsys):
    folder, _ = finished
    (tmp_path / "runs" / "unfinished").mkdir(parents=True)
    for name, seed in (("a", 1), ("b", 2), ("c", 2)):
        shutil.copytree(folder, tmp_path / "runs" / name)
        summary = json.loads((folder / "summary.json").read_text()) | {"seed": seed}
        (tmp_path / "runs" / name / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "runs" / "multirun.yaml").write_text("")
    run_mode(
        config(*QUIET, "mode=report", f"runs=[{tmp_path}/runs/*]", f"run_dir={tmp_path / 'report'}"),
        folder=None,
        project=PROJECT,
    )
    assert "unfinished" in capsys.readouterr().out
    labels = [line.split("|")[1].strip() for line in (tmp_path / "report" / "report.md").read_text().splitlines()[2:]]
    assert labels == ["none seed 1", f"none seed 2 {tmp_path}/runs/b", f"none seed 2 {tmp_path}/runs/c"]


def test_syncing_to_another_server_that_does_not_answer_leaves_the_record_as_it_was(tmp_path):
    from dataecho.tracking.record import FILE_NAME

    dead = ("tracking.tracking_uri=http://127.0.0.1:9", "tracking.start_timeout=0.3", "tracking.finish_timeout=0.3")
    folder = tmp_path / "run"
    run_mode(
        config("display=none", "budget=steps", "budget.steps=1", *dead, f"run_dir={folder}"),
        folder=None,
        project=PROJECT,
    )
    before = (folder / FILE_NAME).read_bytes()
    other = ("tracking.tracking_uri=http://127.0.0.1:10", "tracking.retry_interval=0.01")
    with pytest.raises(
        SettingError, match="tracking_uri=http://127.0.0.1:10 cannot be used. Allowed: a place that takes"
    ):
        run_mode(config("mode=sync", f"resume={folder}", *other), folder=None, project=PROJECT)
    assert (folder / FILE_NAME).read_bytes() == before
