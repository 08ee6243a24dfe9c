using Virtbus.Core;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Vdpa;

/// <summary>The vDPA devices of a management device, as functions (Linux: <c>vdpa dev add</c>, with what was said before it kept).</summary>
internal sealed class VdpaFunctions(VdpaManagement management, ProvisioningEngine engine) : SingleFunctionProvider
{
    internal const string KindName = "vdpa";

    public override string Kind => KindName;

    public override IReadOnlyList<string> Parents { get; } =
        management.Name == management.Device.Name ? [management.Device.Name] : [management.Device.Name, management.Name];

    public override IReadOnlyList<ProfileField> Fields => management.Fields;

    public override bool Returns => true;

    public override void Check(FunctionProfile profile) => management.Check(profile);

    protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
    {
        var isChosen = profile.TryGet(VdpaFields.Driver, out var driver);
        if (isChosen)
            await engine.LoadDriverAsync(management.Bus, driver!);
        var device = await management.AddAsync(profile);
        try
        {
            if (isChosen)
                await engine.RequireDriverAsync(profile.Name, device, driver!, cancellationToken);
        }
        catch
        {
            await management.RemoveAsync(device);
            throw;
        }

        return device;
    }

    protected override ValueTask DeactivateAsync(FunctionProfile profile, Device device) => management.RemoveAsync((VdpaDevice)device);
}
