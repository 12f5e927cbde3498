-- diagnostics_spec.lua - logged diagnostics as charts.
local diagnostics = require "dopl.report.diagnostics"

describe("charts of diagnostics", function()
  it("draw each figure, and the cosine of updates by layer", function()
    for _, kind in ipairs { "diagnostics", "microscope" } do -- the kind's name in older runs
      local rows = { { kind = "step", step = 1 } }
      for step = 1, 3 do
        local layers = { ["layers.1"] = { cos_update = 0.1 }, ["layers.2"] = { cos_update = 0.2 } }
        rows[#rows + 1] = { kind = kind, label = "test", step = step, cos_update = 0.1 * step,
          cos_grad = -0.1, cos_grad_ema = 0.3, delta_over_base_m_forget = 0.5,
          near_zero_v_forget = 0.01, layers = layers }
      end
      local charts = diagnostics.charts(rows)
      assert.equal(6, #charts)
      for _, chart in ipairs(charts) do assert.truthy(chart.svg:find "^<svg" and chart.caption) end
      assert.truthy(charts[1].svg:find "Cosine of consecutive updates")
      assert.truthy(charts[4].svg:find("layers.2", 1, true))
    end
    assert.same({}, diagnostics.charts { { kind = "step", step = 1 } })
  end)
end)
