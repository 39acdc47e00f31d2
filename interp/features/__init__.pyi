from .attribution import feature_attribution as feature_attribution
from .cards import feature_card as feature_card
from .causal import (
    Effects as Effects,
    change_size as change_size,
    control_sets as control_sets,
    feature_effects as feature_effects,
    mean_shift as mean_shift,
    necessity as necessity,
    sufficiency as sufficiency,
    written_under as written_under,
)
from .changes import ablate_features as ablate_features, add as add, scaled_change as scaled_change
from .dictionary import Dictionary as Dictionary
from .inherited import (
    SharedFeatures as SharedFeatures,
    feature_differences as feature_differences,
    shared_features as shared_features,
)
from .lean import FeatureLean as FeatureLean, feature_lean as feature_lean
from .lean_nulls import lean_correlation as lean_correlation, vocabulary_control as vocabulary_control
from .quality import quality_card as quality_card
from .reading import feature_statistics as feature_statistics, read_tokens as read_tokens
from .sae import SAERecipe as SAERecipe, train_sae as train_sae
from .sae_files import load_sae as load_sae, save_sae as save_sae
from .shift import FeatureShift as FeatureShift, feature_shift as feature_shift
from .splice import Change as Change, with_features as with_features
