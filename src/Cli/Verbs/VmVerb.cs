using System.CommandLine;
using System.Globalization;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Vm;

namespace Virtbus.Cli.Verbs;

internal static class VmVerb
{
    /// <param name="guestCommand">What followed '--'; null for a shell in the guest.</param>
    public static Command Make(string[]? guestCommand)
    {
        var devices = Names.Sockets();
        var isolated = new Option<bool>("--no-shared-memory") { Description = "Keep the guest's memory from the devices: they ask for each byte of it by messages. For vfio-user devices only." };
        var iommu = new Option<bool>("--viommu") { Description = "Give the guest an IOMMU, which its own vfio-pci needs." };
        var legacy = new Option<bool>("--legacy") { Description = "Have the guest's virtio driver use the registers from before version 1.0 of the standard, where a device has them." };
        var cpus = new Option<string>("--cpus") { Description = $"How many processors the guest has, 1 to {VmOptions.MaxCpus}; 1 when absent.", HelpName = "N" };
        var kernel = new Option<string>("--kernel") { Description = "Boot the kernel of this Debian suite (such as trixie), fetched once, and not the one that is there.", HelpName = "SUITE" };
        var reboot = new Option<bool>("--reboot") { Description = "Let the guest reboot, and start the command anew at each boot; without it a reboot ends the guest." };
        var prepare = new Option<bool>("--prepare") { Description = "Only fetch or make what guests need (QEMU, kernel, tools), so that later ones start at once." };
        var print = new Option<bool>("--print") { Description = "Only print the command line of QEMU for a guest with a shell, to run it by hand or to learn from it." };
        var command = new Command("vm", "Start a virtual machine with devices attached; a shell in it, or after '--' a command. Do not migrate it: QEMU moves no state of a vfio-user device.") { devices, isolated, iommu, legacy, cpus, kernel, reboot, prepare, print };
        CommandLine.AddCheck(command, result =>
        {
            if (result.GetValue(devices) is null or [] && !result.GetValue(prepare))
                result.AddError("'virtbus vm' needs a DEVICE that offers a socket.");
            if (result.GetValue(cpus) is { } count && !TryParseCpus(count, out _))
                result.AddError($"'virtbus vm --cpus' takes 1 to {VmOptions.MaxCpus}, not '{count}'.");
            if (result.GetValue(print) && result.GetValue(prepare))
                result.AddError("'virtbus vm' takes one of --print and --prepare.");
            if (result.GetValue(print) && guestCommand is not null)
                result.AddError("'virtbus vm --print' takes no command: the line is that of a guest with a shell. Leave out '--' and what follows.");
        });
        command.SetAction((result, cancellation) =>
        {
            if (result.GetValue(prepare))
                return PrepareAsync(result.GetValue(kernel), cancellation);
            var isPrinted = result.GetValue(print);
            var machine = new Machine(!result.GetValue(isolated), result.GetValue(iommu), result.GetValue(legacy), result.GetValue(reboot), TryParseCpus(result.GetValue(cpus), out var count) ? count : 1, result.GetValue(kernel));
            var client = ControlClient.FromEnvironment();
            VmDevice[] found = [.. Resolve(client, result.GetRequiredValue(devices), mayBeInUse: isPrinted).Select(socket => DeviceOf(client, socket))];
            return isPrinted ? PrintAsync(found, machine, CommandLine.OutputOf(result), cancellation) : RunAsync(found, machine, guestCommand);
        });
        return command;
    }

    private static bool TryParseCpus(string? text, out int count) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out count) && count is >= 1 and <= VmOptions.MaxCpus;

    private static IReadOnlyList<SocketAnswer> Resolve(ControlClient client, IReadOnlyList<string> names, bool mayBeInUse)
    {
        SocketAnswer[] sockets = [.. Sockets.All(client).Where(Sockets.IsForGuests)];
        SocketAnswer[] found = [.. names.Select(name => Sockets.Find(client, sockets, name) ?? throw NoSocket(client, name, sockets))];
        if (found.GroupBy(s => s.Device).FirstOrDefault(g => g.Count() > 1) is { } twice)
            throw new VirtbusException(Errno.EINVAL, $"Device '{twice.Key}' is named twice. A socket serves one user at a time; name each device once.");
        // A second user would wait for the first one to go.
        if (!mayBeInUse && found.FirstOrDefault(s => s.Connected) is { } busy)
            throw new VirtbusException(Errno.EBUSY, $"Device '{busy.Device}' is in use: process {Sockets.User(busy)} is connected to {busy.Path}. End that first.");
        return found;
    }

    private static VirtbusException NoSocket(ControlClient client, string name, IReadOnlyList<SocketAnswer> sockets)
    {
        var function = FunctionVerbs.All(client).FirstOrDefault(f => f.Name == name);
        DeviceAnswer? device = client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer)
            .FirstOrDefault(d => d.Name == name || d.Label == name || (function is not null && d.Name == function.Device));
        if (device is null && function is not null)
            return new VirtbusException(Errno.ENODEV, $"Function '{name}' is {function.State}, so it offers no socket. Activate it first: virtbus function activate {name}");
        // Most likely a function whose own driver has it.
        if (device is { Bus: "pci" })
        {
            return new VirtbusException(
                Errno.ENODEV,
                $"Device '{name}' offers no socket: {(device.Driver is { } driver ? $"driver {driver} has it" : "no driver has it")}. Give it to guests with 'virtbus driver override {name} vfio-pci'.");
        }

        if (device is { Bus: "vdpa", Driver: null })
            return new VirtbusException(Errno.ENODEV, $"Device '{name}' offers no socket: no driver has it. Give it to guests with 'virtbus driver bind {name} vhost-vdpa'.");
        return new VirtbusException(
            Errno.ENODEV,
            $"No device '{name}' offers a socket.{Suggestion.For(name, sockets.Select(static s => s.Device))} {(sockets.Count == 0 ? "No device of this fabric does; add a disk or a serial port to the manifest." : $"Those that do are {string.Join(", ", sockets.Select(s => s.Device))}.")}");
    }

    private static async Task<int> PrepareAsync(string? kernel, CancellationToken cancellation)
    {
        await VmRunner.PrepareAsync([VmDeviceKind.VhostUserBlk, VmDeviceKind.VfioUserPci], kernel, new ErrorLines(), cancellation);
        return ExitCode.Done;
    }

    private static async Task<int> PrintAsync(IReadOnlyList<VmDevice> devices, Machine machine, Output output, CancellationToken cancellation)
    {
        var line = await new VmRunner(OptionsOf(devices, machine, [], null, Stream.Null, Stream.Null), new ErrorLines()).GetCommandLineAsync(cancellation);
        var answer = new VmCommandLineAnswer(line.Arguments, line.Kernel, line.Initramfs, line.CacheFolder);
        output.Print(answer, CliJson.Default.VmCommandLineAnswer, writer => writer.WriteLine(line.Text));
        // Beside the line, so that a shell gets nothing but the line.
        if (!output.IsJson)
            await Console.Error.WriteLineAsync($"  kernel     {line.Kernel}\n  initramfs  {line.Initramfs}\n  What was fetched or made is kept in {line.CacheFolder} until you delete it. The fabric has to be up.");
        if (!output.IsJson && devices.Any(static d => d.Kind == VmDeviceKind.VfioUserPci))
            await Console.Error.WriteLineAsync("  Do not migrate this guest: QEMU moves no state of a vfio-user device, and does not say so.");
        return ExitCode.Done;
    }

    private static VmOptions OptionsOf(
        IReadOnlyList<VmDevice> devices, Machine machine, IReadOnlyList<string> guestCommand, Stream? input, Stream output, Stream error) => new()
    {
        Devices = devices,
        SharedMemory = machine.SharedMemory,
        Iommu = machine.Iommu,
        LegacyVirtio = machine.LegacyVirtio,
        CanReboot = machine.CanReboot,
        Cpus = machine.Cpus,
        KernelSuite = machine.Kernel,
        Command = guestCommand,
        Input = input,
        Output = output,
        Error = error,
    };

    private static VmDevice DeviceOf(ControlClient client, SocketAnswer socket)
    {
        var kind = KindOf(socket);
        return new VmDevice(socket.Device, kind, socket.Path, Packed: kind == VmDeviceKind.VhostUserBlk && OffersPacked(client, socket.Device));
    }

    private static bool OffersPacked(ControlClient client, string disk)
    {
        var path = $"/bus/vdpa/devices/{disk}/device_features";
        var text = client.Ask("GET", ControlClient.Query("/v1/tree", ("path", path)), ApiJson.Default.NodeAnswer).Value?.Trim();
        return text is ['0', 'x', .. var digits] && ulong.TryParse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out var features)
            && new VirtioFeatures(features).Has(VirtioFeatures.VIRTIO_F_RING_PACKED);
    }

    private static VmDeviceKind KindOf(SocketAnswer socket) => socket.Protocol switch
    {
        "vhost-user-blk" => VmDeviceKind.VhostUserBlk,
        "vfio-user" => VmDeviceKind.VfioUserPci,
        _ => throw new VirtbusException(Errno.EOPNOTSUPP, $"Device '{socket.Device}' speaks {socket.Protocol}, which 'virtbus vm' does not know. Is the daemon of another version?"),
    };

    private static async Task<int> RunAsync(IReadOnlyList<VmDevice> devices, Machine machine, string[]? guestCommand)
    {
        var options = OptionsOf(
            devices, machine, guestCommand ?? [], Console.IsInputRedirected ? Console.OpenStandardInput() : null, StandardOutput.Stream, StandardOutput.ErrorStream);
        try
        {
            return await new VmRunner(options, new ErrorLines()).RunAsync(CancellationToken.None);
        }
        catch (OperationCanceledException)
        {
            return ExitCode.Interrupted;
        }
        catch (OutputException e)
        {
            e.Outcome = "The guest was ended.";
            throw;
        }
    }

    /// <summary>What the guest is to be like, besides its devices.</summary>
    private sealed record Machine(bool SharedMemory, bool Iommu, bool LegacyVirtio, bool CanReboot, int Cpus, string? Kernel);

    // Progress goes to the error stream, so that the command's output stays alone; in order, so not through a thread pool.
    private sealed class ErrorLines : IProgress<string>
    {
        public void Report(string value) => Console.Error.WriteLine($"  {value}");
    }
}
