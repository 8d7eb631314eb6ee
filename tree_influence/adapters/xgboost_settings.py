"""A live Booster's own settings, and from them the parameters to train it again."""

from typing import Any

from tree_influence.adapters.xgboost_trees import Content

Settings = dict[str, Any]  # the learner in Booster.save_config()

# Where the settings hold parameters of the objective; names of the losses' own are unique.
_OF_OBJECTIVES = (
    "reg_loss_param", "pseudo_huber_param", "poisson_regression_param",
    "tweedie_regression_param", "quantile_loss_param",
)  # fmt: skip


def trees_settings(settings: Settings) -> Settings:
    """Settings of the trees; "dart" wraps a "gbtree" before 3.4."""
    booster = settings["gradient_booster"]
    return booster.get("gbtree", booster)


def parameters_of(settings: Settings, content: Content) -> dict[str, Any]:
    """Training parameters of a Booster that was trained in this process."""
    trees = trees_settings(settings)
    parameters = {
        **trees["tree_train_param"],
        **settings["gradient_booster"].get("dart_train_param", {}),
        **settings["learner_train_param"],
        "tree_method": trees["gbtree_train_param"]["tree_method"],
        **{name: settings["generic_param"][name] for name in ("seed", "nthread", "device")},
    }
    return parameters | recipe_of_file(settings, content)


def recipe_of_file(settings: Settings, content: Content) -> dict[str, Any]:
    """The training parameters that a file holds: objective, start, trees of a round."""
    facts = content.learner["learner_model_param"]
    parameters = {
        "objective": settings["learner_train_param"]["objective"],
        "num_parallel_tree": content.n_parallel,
    }
    for name in _OF_OBJECTIVES:
        parameters |= settings["objective"].get(name, {})
    if int(facts["num_class"]) > 0:
        parameters["num_class"] = facts["num_class"]
    if settings["learner_model_param"]["boost_from_average"] == "0":
        parameters["base_score"] = facts["base_score"]
    return parameters
