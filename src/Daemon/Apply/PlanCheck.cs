using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Apply;

/// <summary>What can be known to fail before a plan's first step is: what is taken away for a step that fails would be missing after it.</summary>
internal static class PlanCheck
{
    private const string DriverField = "driver";

    /// <summary>What is wrong with the functions of a manifest, as their kinds and the drivers that there are see it.</summary>
    public static List<ManifestError> Find(FabricManifest manifest, ProvisioningEngine engine, Bus bus)
    {
        var errors = new List<ManifestError>();
        foreach (var function in manifest.AllFunctions())
        {
            try
            {
                // The attributes are those of the kind, whatever the parent is.
                if (engine.Providers.FirstOrDefault(p => p.Kind == function.Kind) is { } provider)
                    FunctionProfile.Parse(function.Kind, function.Name, provider.Fields, function.Values);
                if (function.Values.FirstOrDefault(static v => v.Key == DriverField).Value is { Length: > 0 } driver)
                    engine.CheckDriver(bus, driver);
            }
            catch (VirtbusException e)
            {
                errors.Add(new ManifestError(function.At, function.Path, e.Message));
            }
        }

        return errors;
    }
}
