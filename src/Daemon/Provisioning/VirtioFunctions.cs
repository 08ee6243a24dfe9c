using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Virtio;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Virtio devices on PCI, as functions: block, console and entropy source, which every guest has drivers for.</summary>
internal sealed partial class VirtioFunctions : PluggedFunctions
{
    internal const string KindName = "virtio";
    private const string Block = "blk";
    private const string Console = "console";
    private const string Entropy = "rng";
    private const int MaxQueues = 64;
    // The descriptors fill one page: a guest's IOMMU maps page by page, and each part of a ring has to lie in one piece.
    private const int RingSize = 256;

    private static readonly ProfileField<string> Type = ProfileFields.Choice("virtio", [Block, Console, Entropy], isRequired: true);
    private static readonly ProfileField<int> Queues = VdpaFields.Queues(MaxQueues);
    private static readonly ProfileField<bool> Transitional = ProfileFields.Flag("transitional");
    private static readonly ProfileField<int> Vectors = ProfileFields.Number("vectors", "MSI-X vectors", 0, 2048);
    private static readonly ProfileField[] OfBlock = [.. Medium.Fields, Queues, VdpaFields.Packed, VdpaFields.Serial];
    private static readonly ProfileField[] All = [Type, .. OfBlock, Transitional, Vectors, DriverName];

    private readonly ILogger _log;

    public VirtioFunctions(ProvisioningContext context)
        : base(context)
    {
        _log = context.LoggerFactory.CreateLogger("Virtbus.Virtio");
        Engine.AddProvider(this);
    }

    public override string Kind => KindName;

    public override IReadOnlyList<ProfileField> Fields => All;

    public override void Check(FunctionProfile profile)
    {
        if (profile.TryGet(Type, out var type) && type != Block && OfBlock.FirstOrDefault(profile.IsSet) is { } field)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': only a disk has '{field.Name}', and this is a virtio {type}. Take it away.");
        Medium.Check(profile);
    }

    public override IEnumerable<string> FindMissing(FunctionProfile profile) =>
        [.. base.FindMissing(profile), .. profile.TryGet(Type, out var type) && type == Block ? Medium.FindMissing(profile) : []];

    public override string? DescribeStandard(FunctionProfile profile, ProfileField field)
    {
        if (OfBlock.Contains(field) && !(profile.TryGet(Type, out var type) && type == Block))
            return null;
        if (field == VdpaFields.Serial)
            return VdpaFields.SerialOf(profile);
        return Medium.DescribeStandard(profile, field) ?? base.DescribeStandard(profile, field);
    }

    protected override PluggedPart Make(FunctionProfile profile)
    {
        var name = profile.Name;
        var medium = profile.Get(Type) == Block ? Medium.Open(profile, _log) : null;
        VirtioDevice? device = null;
        VirtioFunction? function = null;
        try
        {
            device = profile.Get(Type) switch
            {
                Block => new VirtioBlkDevice(name, medium!, VdpaFields.SerialOf(profile), profile.Get(Queues), RingSize, new CacheModeFile(Context.RuntimeFolder, name), profile.Get(VdpaFields.Packed)),
                Console => new VirtioConsoleDevice(name),
                _ => new VirtioRngDevice(name),
            };
            function = new VirtioFunction(device, new VirtioFunctionOptions
            {
                IsTransitional = profile.Get(Transitional),
                Vectors = profile.TryGet(Vectors, out var vectors) ? vectors : null,
            });
            function.SetDriverFaultCallback((queue, fault) => DriverFault(_log, name, queue, fault.Message));
            return new PluggedPart(name, function, device is VirtioConsoleDevice console ? Listen(name, new ConsoleTextPort(console), _log) : null, medium);
        }
        catch
        {
            function?.Dispose();
            device?.Dispose();
            medium?.Dispose();
            throw;
        }
    }

    [LoggerMessage(640, LogLevel.Warning, "Function {Function}: its guest's driver did what can't be served on queue {Queue}: {Reason}. The queue stands still until the driver resets the device; "
        + "it is told of no more until another user has the function")]
    private static partial void DriverFault(ILogger log, string function, int queue, string reason);
}
