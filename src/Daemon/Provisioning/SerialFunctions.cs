using Microsoft.Extensions.Logging;
using Virtbus.Hardware.Serial;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Serial ports on PCI, as functions, each with the socket of its line.</summary>
internal sealed class SerialFunctions : PluggedFunctions
{
    internal const string KindName = "serial";

    private static readonly ProfileField[] All = [DriverName];

    public SerialFunctions(ProvisioningContext context)
        : base(context) => Engine.AddProvider(this);

    public override string Kind => KindName;

    public override IReadOnlyList<ProfileField> Fields => All;

    protected override PluggedPart Make(FunctionProfile profile)
    {
        var function = new SerialFunction(Context.Fabric.Time);
        try
        {
            return new PluggedPart(profile.Name, function, Listen(profile.Name, new SerialTextPort(function.Port), Context.LoggerFactory.CreateLogger("Virtbus.Serial")));
        }
        catch
        {
            function.Dispose();
            throw;
        }
    }
}
