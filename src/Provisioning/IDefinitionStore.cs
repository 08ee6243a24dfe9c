namespace Virtbus.Provisioning;

/// <summary>Where definitions last. Called under the engine's lock, one call at a time.</summary>
public interface IDefinitionStore
{
    /// <summary>What is kept, in the order in which it was defined.</summary>
    /// <exception cref="Platform.VirtbusException">It can't be read; the message names the file.</exception>
    IReadOnlyList<StoredDefinition> Load();

    /// <summary>Keeps a definition, a new one or in place of the one of that name. Whatever ends the program: the old or the new one is kept.</summary>
    /// <param name="definition">The definition.</param>
    /// <exception cref="Platform.VirtbusException">It can't be kept; the old one is.</exception>
    void Save(StoredDefinition definition);

    /// <summary>Forgets a definition.</summary>
    /// <param name="name">The function's name; one that is not kept is no error.</param>
    /// <exception cref="Platform.VirtbusException">It can't be forgotten.</exception>
    void Remove(string name);
}
