from .charts import panels as panels, volcano as volcano, waterfall as waterfall
from .facts import facts_html as facts_html
from .forests import forest as forest
from .grammar import (
    BLUE as BLUE,
    DASHES as DASHES,
    DECISIONS as DECISIONS,
    DIVERGING as DIVERGING,
    GREEN as GREEN,
    GREY as GREY,
    HATCHES as HATCHES,
    NIGHT as NIGHT,
    ORANGE as ORANGE,
    OTHERS as OTHERS,
    ROLES as ROLES,
    SKY as SKY,
    SYMBOLS as SYMBOLS,
    TEMPLATE as TEMPLATE,
    bracket as bracket,
    captioned as captioned,
    role_colour as role_colour,
    role_dash as role_dash,
    role_symbol as role_symbol,
    signed as signed,
    spoken as spoken,
)
from .maps import heatmap as heatmap, interval_maps as interval_maps, interval_text as interval_text
from .plots import (
    bars as bars,
    grouped_points as grouped_points,
    lines as lines,
    points as points,
    scatter as scatter,
    whiskers as whiskers,
)
from .results import Result as Result, Shown as Shown, Table as Table, drawing as drawing
from .token_views import TokenRows as TokenRows, token_html as token_html, token_rows as token_rows
