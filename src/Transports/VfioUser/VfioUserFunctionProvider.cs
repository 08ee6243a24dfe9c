using Virtbus.Pci;

namespace Virtbus.Transports.VfioUser;

/// <summary>The functions that other processes serve over vfio-user, by the paths of their sockets.</summary>
public sealed class VfioUserFunctionProvider : IPciFunctionProvider
{
    /// <inheritdoc/>
    public string Name => "vfio-user";

    /// <inheritdoc/>
    /// <returns>Always empty: a socket may be anywhere.</returns>
    public IReadOnlyList<string> List() => [];

    /// <inheritdoc/>
    /// <exception cref="Virtbus.Platform.VirtbusException">As <see cref="VfioUserFunction.Connect"/>.</exception>
    public async ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default)
    {
        // The greeting waits for the server, and nobody else shall wait for that.
        return await Task.Run(() => VfioUserFunction.Connect(name, cancellationToken: cancellationToken), CancellationToken.None);
    }
}
