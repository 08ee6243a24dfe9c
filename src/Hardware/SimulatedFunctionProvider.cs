using Virtbus.Hardware.Probe;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware;

/// <summary>Simulated functions that need nothing but a name.</summary>
public sealed class SimulatedFunctionProvider : IPciFunctionProvider
{
    private const string Scratch = "scratch";
    private const int ScratchVirtualFunctions = 8;

    /// <inheritdoc/>
    public string Name => "simulated";

    /// <inheritdoc/>
    public string NameDescription => "one of: " + Scratch;

    /// <inheritdoc/>
    public IReadOnlyList<string> List() => [Scratch];

    /// <inheritdoc/>
    /// <exception cref="VirtbusException">ENOENT: there is no such kind.</exception>
    public ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default) => name == Scratch
        ? ValueTask.FromResult<IPciFunction>(new ScratchFunction(ScratchVirtualFunctions))
        : throw new VirtbusException(Errno.ENOENT, $"'{name}' is no kind of simulated function.{Suggestion.For(name, [Scratch])} There is: {Scratch}.");
}
